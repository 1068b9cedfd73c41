"""Starts the servers that the benchmarks compare: stock vLLM and ours, with the same options."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OPTIONS = (
    *("--dtype", "float32", "--max-model-len", "8192", "--max-num-seqs", "256"),
    *("--max-num-batched-tokens", "2048", "--enforce-eager", "--served-model-name", "demo"),
)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(kind: str, port: int, qos: Path | None, extra: Sequence[str]) -> list[str]:
    """Return the command line of `stock` vLLM, or of our server with the policy `kind`."""
    from niyama.demo_model import make

    model = str(make())
    common = ["--host", "127.0.0.1", "--port", str(port), *OPTIONS, *extra]
    if kind == "stock":
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *common]
    qos_options = [] if qos is None else ["--qos", str(qos)]
    return [sys.executable, "-m", "niyama", "serve", model, "--policy", kind, *qos_options, *common]


@contextmanager
def serving(kind: str, log: Path, qos: Path | None = None, extra: Sequence[str] = ()) -> Iterator[str]:
    """Run a server until the block ends; yield its address once it is healthy."""
    port = free_port()
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as out:
        process = subprocess.Popen(
            command(kind, port, qos, extra), stdout=out, stderr=out, env=env, start_new_session=True
        )
        try:
            _wait_healthy(url, process, log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_healthy(url: str, process: subprocess.Popen[bytes], log: Path, limit_s: float = 240) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
