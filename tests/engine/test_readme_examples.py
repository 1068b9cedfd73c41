"""The README's requests do what it says, word for word but for the port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.engine.httpserver import Server

pytestmark = pytest.mark.engine

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8000"


def blocks(language: str, server: Server) -> list[str]:
    """Return the README's code that asks the server of `make serve`, with this one's address."""
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return [code.replace(URL, server.url) for code in found if URL in code]


def num_served(server: Server) -> dict[str, int]:
    return {name: counts["met"] + counts["missed"] for name, counts in server.state()["classes"].items()}


def test_readme_python_requests_are_served_in_the_classes_it_names(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    before = num_served(server)
    scope: dict[str, Any] = {}
    for code in blocks("python", server):
        exec(compile(code, "README.md", "exec"), scope)
    for sdk in ("client", "claude"):
        scope[sdk].close()
    served = {name: count - before[name] for name, count in num_served(server).items()}
    assert served == {"interactive": 1, "batch": 3, "background": 0}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_readme_curl_request_streams(server: Server) -> None:
    before = num_served(server)
    (command,) = blocks("sh", server)
    done = subprocess.run(
        ["bash", "-c", command.replace("curl ", "curl --noproxy '*' -sS ", 1)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["choices"] for event in events[:-1])
    assert num_served(server)["batch"] == before["batch"] + 1
