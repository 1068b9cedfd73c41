from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from niyama.bench import soak, soakwatch
from niyama.bench.soakserver import SoakServer, SoakServerError
from niyama.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "--minutes: 0 is no time; allowed: minutes > 0"),
        (["--minutes", "nan"], "--minutes: nan is no time; allowed: minutes > 0"),
        (["--qps", "-1"], "--qps: -1 is not a rate; allowed: auto, or clients per second > 0"),
        (["--qps", "many"], "--qps: many is not a rate; allowed: auto, or clients per second > 0"),
        (["--model", "no/such/model"], "MODEL: no/such/model does not exist"),
        (["--json", "/no/such/folder/x"], "--json: /no/such/folder/x cannot be written: there is no folder"),
        (["--log", "/no/such/folder/x"], "--log: /no/such/folder/x cannot be written: there is no folder"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"niyama: error: {message}")
    assert len(error.splitlines()) == 1


CLASS = dict.fromkeys(
    ("queued", "prefilling", "decoding", "held", "relegated", "met", "missed", "aborted"), 0
)
STATE: dict[str, Any] = {
    **{"kv_usage": 0.0, "num_running": 0, "num_waiting": 0, "step": 100, "fallback_steps": 0},
    **{
        "realised": {"preempted": 3},
        "vllm_version": "0.32.0",
        "policy": "niyama",
        "classes": {"chat": CLASS},
    },
}


class Acted(SoakServer):
    """A process that does nothing, with pages that are made up: each look at the state is one step more.

    Before the clients come its counters are at 7; each look at them adds 7. It ends, or its pages fail,
    after so many looks at the state.
    """

    def __init__(self, log: Path, *, ends_after: int = 10**9, fails_after: int = 10**9) -> None:
        log.write_text("all is well\nLast Error: out of memory\n")
        words = [sys.executable, "-c", "import time; time.sleep(60)"]
        super().__init__("http://127.0.0.1:9", subprocess.Popen(words), log)
        self.ends_after, self.fails_after = ends_after, fails_after
        self.num_looks = 0
        self.seen: dict[str, int] = {}

    def state(self) -> dict[str, Any]:
        self.num_looks += 1
        if self.num_looks == self.ends_after:
            self.process.kill()
            self.process.wait()
        if self.num_looks >= min(self.ends_after, self.fails_after):
            raise SoakServerError("GET /niyama/state: refused")
        return {**STATE, "step": 100 + self.num_looks}

    def metric(self, name: str) -> float:
        if name in ("niyama_requests_total", "niyama_fallback_steps_total"):
            return 0.0
        self.seen[name] = self.seen.get(name, 0) + 7
        return float(self.seen[name])

    def complete(self, **body: Any) -> dict[str, Any]:
        return {"choices": [{"text": "always the same"}]}


def acted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, **kind: int
) -> tuple[int, dict[str, Any]]:
    """Soak such a server for so long; return the exit status and the JSON."""
    server = Acted(tmp_path / "log", **kind)

    @contextmanager
    def started(*args: object) -> Iterator[Acted]:
        yield server

    monkeypatch.setattr(soak, "soak_server", started)
    monkeypatch.setattr(soak, "_saturation_qps", lambda *args: 5.0)
    monkeypatch.setattr(soakwatch, "POLL_S", 0.1)
    monkeypatch.setattr("niyama.cli.checks.check_vllm", lambda *args, **options: None)
    target = tmp_path / "soak.json"
    try:
        status = main(
            ["soak", "--minutes", str(seconds / 60), "--json", str(target), "--log", str(tmp_path / "out")]
        )
    finally:
        server.process.kill()
        server.process.wait()
    return status, json.loads(target.read_text())


def test_server_that_ends_breaks_the_soak_off_and_leaves_what_was_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, result = acted(monkeypatch, tmp_path, 60.0, ends_after=4)
    assert status == 1
    lost = result["problems"][0]
    assert lost.startswith("the server was lost: the server ended with -9: Last Error: out of memory; ")
    assert lost.endswith(" min into the soak")
    assert result["memory"][0]["samples"]
    assert min(mib for _, mib in result["memory"][0]["samples"]) > 0
    assert (result["steps"], result["relegated"]) == (1, None)
    text = capsys.readouterr().out
    assert f"WRONG: {lost}" in text
    assert "MEMORY, MiB" in text
    assert "? relegations" in text


def test_server_without_a_state_page_for_a_while_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(soakwatch, "LOST_AFTER_S", 1.0)
    status, result = acted(monkeypatch, tmp_path, 60.0, fails_after=4)
    assert status == 1
    assert any(
        problem.startswith("the server was lost: no state page for ") for problem in result["problems"]
    )
    assert result["problems"].count("state: GET /niyama/state: refused") >= 1


def test_server_that_ends_when_the_clients_have_gone_is_told_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(soakwatch.Watch, "poll", lambda watch: True)
    status, result = acted(monkeypatch, tmp_path, 0.01, ends_after=3)
    assert status == 1
    assert result["problems"][0].startswith("the server was lost: the server ended with -9: ")
    assert result["problems"][0].endswith("; when the clients had gone")


def test_counters_are_those_of_the_soak_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(soakwatch.Watch, "poll", lambda watch: True)
    _, result = acted(monkeypatch, tmp_path, 0.01)
    assert [result[name] for name in ("relegated", "restored", "held_steps")] == [7, 7, 7]
    assert not any("lost" in problem for problem in result["problems"])


@pytest.mark.parametrize("page", ["no JSON", "{}", '{"engines": {}}', '{"engines": [1]}', "[]"])
def test_state_page_without_a_state_is_none(
    page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(SoakServer, "get", lambda server, path: page)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(SoakServerError, match=r"GET /niyama/state: no engine's state in "):
        SoakServer("http://127.0.0.1:9", process, tmp_path / "log").state()
