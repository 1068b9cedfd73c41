"""The server of a soak: `niyama serve` in processes of its own, and how much memory they use."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from niyama.bench.soakshots import MAX_TOKENS_IN_ALL

KV_BLOCK_TOKENS = 32
NUM_KV_BLOCKS = 80
"""KV for 2,560 tokens, hardly more than one long request needs, where 48 may run."""

MAX_SEQS = 48

OPTIONS = (
    *("--max-model-len", str(MAX_TOKENS_IN_ALL), "--max-num-seqs", str(MAX_SEQS)),
    *("--num-gpu-blocks-override", str(NUM_KV_BLOCKS), "--block-size", str(KV_BLOCK_TOKENS)),
    "--check-laws",
)

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "262144",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}
"""Bounds what fills for an hour in vLLM's worker on the CPU, oneDNN's kernels for a thousand batch shapes
and glibc's free lists, and would hide a leak. The environment's own values win."""

START_LIMIT_S = 600.0
END_LIMIT_S = 60.0
ANSWER_LIMIT_S = 30.0
MIB = 1024.0 * 1024.0

_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this machine, whatever proxy the environment names."""


class SoakServerError(RuntimeError):
    """The server did not start or does not answer; the text is one line."""


class SoakServer:
    """A running server.

    Attributes:
        url: Where it answers.
        process: The API server; the others are its children.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self.process = process
        self._log = log

    def get(self, path: str) -> str:
        """Return the answer to a GET. Raises SoakServerError if there is none."""
        try:
            with _LOCAL.open(f"{self.url}{path}", timeout=ANSWER_LIMIT_S) as answer:
                text: bytes = answer.read()
        except (OSError, HTTPException) as error:
            raise SoakServerError(f"GET {path}: {error!r}") from None
        return text.decode()

    def ending(self) -> str | None:
        """Return how its process ended, in one line; None if it has not."""
        status = self.process.poll()
        if status is None:
            return None
        last = self.log_lines("error", "Error")[-1:] or ["nothing in its log says why"]
        return f"the server ended with {status}: {last[0][:300]}"

    def state(self) -> dict[str, Any]:
        """Return the scheduler's state. Raises SoakServerError if there is none."""
        text = self.get("/niyama/state")
        try:
            engines: dict[str, Any] = json.loads(text)["engines"]
            state: dict[str, Any] = next(iter(engines.values()))
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
            raise SoakServerError(f"GET /niyama/state: no engine's state in {text[:200]!r}") from None
        return state

    def metric(self, name: str) -> float:
        """Return the sum of a metric over all its labels, 0 if the page does not have it."""
        total = 0.0
        for line in self.get("/metrics").splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                total += float(line.rpartition(" ")[2])
        return total

    def complete(self, **body: Any) -> dict[str, Any]:
        """Return the answer to a completion. Raises SoakServerError if there is none."""
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        try:
            with _LOCAL.open(request, timeout=ANSWER_LIMIT_S) as answer:
                found: dict[str, Any] = json.load(answer)
        except (OSError, HTTPException, ValueError) as error:
            raise SoakServerError(f"POST /v1/completions: {error!r}") from None
        return found

    def log_lines(self, *words: str) -> list[str]:
        """Return the lines of its log that have one of the words."""
        with self._log.open(encoding="utf-8", errors="replace") as lines:
            return [line.strip() for line in lines if any(word in line for word in words)]

    def processes(self) -> dict[int, str]:
        """Return the pid and the role of every process of it that lives."""
        roles: dict[int, str] = {}
        for pid in _with_children(self.process.pid):
            with suppress(OSError):
                title = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                roles[pid] = _role(title, is_first=pid == self.process.pid)
        return roles


def resident_mib(pid: int) -> float | None:
    """Return the memory that a process holds, MiB; None if it is gone or only waits to be reaped."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB if pages else None


@contextmanager
def soak_server(model: str | None, qos: Path, log: Path, extra: Sequence[str] = ()) -> Iterator[SoakServer]:
    """Run a server on loopback until the block ends.

    Args:
        model: What to serve; None for the demo model.
        qos: The QoS file.
        log: File for everything that it prints.
        extra: Further words of the command line.

    Raises:
        SoakServerError: it does not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "niyama", "serve", *([] if model is None else [model])]
    words += ["--port", str(port), "--qos", str(qos), *OPTIONS, *extra]
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, **os.environ},
            start_new_session=True,
        )
    server = SoakServer(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_healthy(server)
        yield server
    finally:
        _end(process)


def _wait_healthy(server: SoakServer) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        ending = server.ending()
        if ending is not None:
            raise SoakServerError(ending)
        with suppress(SoakServerError):
            server.get("/health")
            return
        time.sleep(0.25)
    raise SoakServerError(f"the server is not up after {START_LIMIT_S:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server, gently first, and every process that it started: its own process group."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_LIMIT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _with_children(root: int) -> list[int]:
    """Return a process and all below it, in order of their numbers."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            # The name, in parentheses, may hold spaces.
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += sorted(child for child, parent in parents.items() if parent == pid)
    return found


def _role(title: str, *, is_first: bool) -> str:
    if is_first:
        return "API server"
    if "EngineCore" in title:
        return "engine core"
    if "Worker" in title:
        return "worker"
    if "resource_tracker" in title:
        return "resource tracker"
    return title.strip()[:40] or "?"
