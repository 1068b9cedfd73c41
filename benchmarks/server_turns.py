"""Does our server cost throughput where stock vLLM's does not? Both over HTTP, in turn, in one run.

As `throughput.py --tbt`, servers and all: 150 requests at once, prompts of 20 to 1,000 tokens, 64
tokens out, every third promised a TBT; the time until the last answer has ended. Stock vLLM orders
by priority and has a fixed chunk. All servers stay up, but those whose turn it is not are stopped,
so that a drift of the machine's speed falls on all alike. Prints the medians, and how many times
as fast as stock's each turn of ours was.

    python benchmarks/server_turns.py [--turns 5] [--tbt 0.134] [--stock-chunk 256]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from servers import serving
from throughput import NUM_OUTPUT_TOKENS, NUM_REQUESTS, READERS_TTFT_S

LIMIT_S = 300.0


class Server:
    """A server that runs only in its turn."""

    def __init__(self, url: str, group: int, is_stock: bool, tbt_s: float) -> None:
        self._url, self._group, self._is_stock, self._tbt_s = url, group, is_stock, tbt_s
        self._rng = random.Random(group)
        self.seconds: list[float] = []

    def take_turn(self) -> float:
        """Serve a burst; return the seconds it took."""
        with self.running():
            return asyncio.run(self._burst())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let it go on until the block ends."""
        os.killpg(self._group, signal.SIGCONT)
        time.sleep(0.5)
        try:
            yield
        finally:
            os.killpg(self._group, signal.SIGSTOP)

    async def _burst(self) -> float:
        lengths = random.Random(5)
        bodies = [self._body(number, lengths.randrange(20, 1000)) for number in range(NUM_REQUESTS)]
        timeout = aiohttp.ClientTimeout(LIMIT_S)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, raise_for_status=True
        ) as session:
            start = time.perf_counter()
            await asyncio.gather(*(self._one(session, body) for body in bodies))
            return time.perf_counter() - start

    async def _one(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        ended = False
        async with session.post(f"{self._url}/v1/completions", json=body) as response:
            async for line in response.content:
                ended = ended or line == b"data: [DONE]\n"
        if not ended:
            raise RuntimeError(f"{self._url}: an answer did not end")

    def _body(self, number: int, num_prompt_tokens: int) -> dict[str, Any]:
        is_urgent = number % 3 == 0
        promise: dict[str, Any] = {"priority": 0 if is_urgent else 1}
        if not self._is_stock:
            slo = {"niyama_ttft_ms": READERS_TTFT_S * 1000, "niyama_tbt_ms": self._tbt_s * 1000}
            promise = {"vllm_xargs": slo if is_urgent else {"niyama_class": "background"}}
        return promise | {
            "model": "demo",
            "prompt": [self._rng.randrange(300, 2000) for _ in range(num_prompt_tokens)],
            "max_tokens": NUM_OUTPUT_TOKENS,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }


@contextmanager
def standing_by(kind: str, args: argparse.Namespace) -> Iterator[Server]:
    """Start a server, warm it up and stop it until its turn."""
    is_stock = kind == "stock"
    extra = ["--no-enable-prefix-caching"]
    if is_stock:
        extra += ["--scheduling-policy", "priority", "--max-num-batched-tokens", str(args.stock_chunk)]
    log = Path(tempfile.gettempdir()) / f"niyama-server-turns-{kind}.log"
    before = children()
    with serving(kind, log, extra=extra) as url:
        (group,) = children() - before
        server = Server(url, group, is_stock, args.tbt)
        try:
            server.take_turn()
            yield server
        finally:
            os.killpg(group, signal.SIGCONT)


def children() -> set[int]:
    """Return the processes that this one has started; a server's is the head of its group."""
    pid = os.getpid()
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def main() -> int:
    """Take turns and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--policy", default="niyama")
    parser.add_argument("--tbt", type=float, default=0.134, help="seconds, promised to every third request")
    parser.add_argument("--stock-chunk", type=int, default=256, help="tokens per step of stock vLLM")
    args = parser.parse_args()
    kinds = ("stock", args.policy)
    with ExitStack() as stack:
        running = {kind: stack.enter_context(standing_by(kind, args)) for kind in kinds}
        for turn in range(args.turns):
            for kind in kinds if turn % 2 == 0 else reversed(kinds):
                running[kind].seconds.append(running[kind].take_turn())
                print(f"turn {turn + 1}: {kind} {running[kind].seconds[-1]:.1f} s", file=sys.stderr)
    for kind, server in running.items():
        print(f"{kind}: median {statistics.median(server.seconds):.1f} s")
    stock, ours = (running[kind].seconds for kind in kinds)
    ratios = [theirs / own for theirs, own in zip(stock, ours, strict=True)]
    listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"times as fast: median {statistics.median(ratios):.3f} ({listed})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
