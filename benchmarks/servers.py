"""Starts the servers that the benchmarks compare: stock vLLM and ours, with the same options."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from niyama.bench import servers
from niyama.bench.servers import free_port

OPTIONS = (
    *("--dtype", "float32", "--max-model-len", "8192", "--max-num-seqs", "256"),
    *("--max-num-batched-tokens", "2048", "--enforce-eager", "--served-model-name", "demo"),
)


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
    env = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "WARNING"}
    with servers.serving(command(kind, port, qos, extra), port, log, env) as url:
        yield url
