"""A real server process, started by `niyama serve` as an operator would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai

START_LIMIT_S = 240.0
ANSWER_LIMIT_S = 60.0
CONNECTIONS = httpx.Limits(keepalive_expiry=2.0)
"""Connections are used again for so long only: the server closes idle ones after 5 s, httpx's own limit, and
a request that crosses the closing is lost."""
LIVE = ("queued", "prefilling", "decoding", "held", "relegated")


class Server:
    """A running server, and clients for it."""

    def __init__(
        self,
        url: str,
        process: subprocess.Popen[bytes],
        folder: Path,
        options: Sequence[str],
        key: str | None,
    ) -> None:
        self.url = url
        self.process = process
        self.options = options
        self.log_path = folder / "server.log"
        self.step_log_path = folder / "steps.jsonl"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(
            base_url=url, headers=headers, timeout=ANSWER_LIMIT_S, limits=CONNECTIONS, trust_env=False
        )
        self.openai = openai.OpenAI(
            base_url=f"{url}/v1",
            api_key=key or "none",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        )

    def state(self) -> dict[str, Any]:
        """Return the scheduler's state as the page shows it."""
        answer = self.http.get("/niyama/state")
        assert answer.status_code == 200, answer.text
        return single_engine(answer.json())

    def live_requests(self) -> int:
        """Return how many requests the scheduler has; where it has none, we count none either."""
        state = self.state()
        num_live = int(state["num_running"]) + int(state["num_waiting"])
        counted = sum(counts[key] for counts in state["classes"].values() for key in LIVE)
        return num_live or counted

    def complete(self, **body: Any) -> dict[str, Any]:
        """Return the answer of /v1/completions, greedy and of a fixed length unless `body` says otherwise."""
        body = {"model": "demo", "temperature": 0, "ignore_eos": True, "max_tokens": 8, **body}
        answer = self.http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def close(self) -> None:
        self.http.close()
        self.openai.close()


def single_engine(page: dict[str, Any]) -> dict[str, Any]:
    """Return the state of the only engine."""
    engines: dict[str, Any] = page["engines"]
    assert len(engines) == 1
    state: dict[str, Any] = next(iter(engines.values()))
    return state


def wait_until(condition: Callable[[], object], what: str, limit_s: float = ANSWER_LIMIT_S) -> None:
    """Return as soon as the condition holds; fail if it does not within the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s:.0f} s: {what}"
        time.sleep(0.05)


@contextmanager
def running_server(folder: Path, *options: str, key: str | None = None) -> Iterator[Server]:
    """Run `niyama serve` with the demo model and the options until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["--port", str(port), "--step-log", str(folder / "steps.jsonl"), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    environment |= {
        "NIYAMA_CACHE": str(folder.parent),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "niyama", "serve", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process, folder, options, key)
    try:
        wait_until(lambda: _is_healthy(server), "the server is up", START_LIMIT_S)
        yield server
    finally:
        server.close()
        _end(process)


def _is_healthy(server: Server) -> bool:
    if server.process.poll() is not None:
        lines = server.log_path.read_text(errors="replace").splitlines()
        # What a library says of its own leaks when the process ends is not why it ended.
        tail = "\n".join([line for line in lines if "leaked" not in line and "/health" not in line][-40:])
        raise AssertionError(f"the server ended with {server.process.returncode}:\n{tail}")
    try:
        return server.http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and every process that it started: its own process group."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
