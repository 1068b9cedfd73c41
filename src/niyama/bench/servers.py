"""Starts servers on this machine and stops them: ours, and stock vLLM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_LIMIT_S = 600.0
"""A server that is not healthy by then has failed; a busy machine takes minutes to import vLLM."""

STOP_LIMIT_S = 30.0


class ServerError(RuntimeError):
    """A server that does not start; the text is one line with the end of its log."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(words: Sequence[str], port: int, log: Path, env: Mapping[str, str]) -> Iterator[str]:
    """Run a server until the block ends; yield its address once it is healthy.

    The server and all its processes are one process group, so nothing of it is left behind.

    Args:
        words: The whole command.
        port: Where it will listen, on 127.0.0.1.
        log: File for its output; written anew.
        env: Environment variables on top of this process's.

    Raises:
        ServerError: it ends before it is healthy, or is not healthy in time.
    """
    with _ending_on_sigterm(), log.open("w") as out:
        process = subprocess.Popen(
            list(words), stdout=out, stderr=out, env={**os.environ, **env}, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_healthy(url, process, log)
            yield url
        finally:
            _stop(process)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does: who is killed must not leave a server behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    # No proxy: the address is this machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_LIMIT_S
    reason = f"it was not healthy after {START_LIMIT_S:.0f} s"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            reason = f"it ended with status {process.returncode}"
            break
        try:
            with opener.open(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    last = [line for line in log.read_text(errors="replace").splitlines() if "rror" in line][-1:]
    raise ServerError(
        f"the server did not start: {reason}; see {log}" + "".join(f": {t[-300:]}" for t in last)
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
