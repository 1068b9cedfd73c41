"""Does Niyama cost throughput, without pressure or with a TBT? Stock vLLM and ours in turn, in one run.

One vLLM engine in this process, no HTTP; each turn gives it a fresh scheduler, stock or ours, and 150
requests at once: prompts of 20 to 1,000 tokens, 64 tokens out, of a class whose deadline is far
away. Prints the median tokens per second of each, and the median of the ratios of the turns.
Expected: at least 0.98.

With --tbt every third request was promised that time between tokens, so chunks follow the slack;
stock vLLM then has a fixed chunk that keeps about that pace.

    python benchmarks/throughput.py [--turns 5] [--policy niyama] [--tbt 0.134 --stock-chunk 256]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from typing import Any

NUM_REQUESTS, NUM_OUTPUT_TOKENS = 150, 64
LARGEST_CHUNK = 2048
READERS_TTFT_S = 60.0
"""Long enough for all to begin in time."""


class Engine:
    """vLLM's engine, whose scheduler can be exchanged while it is idle."""

    def __init__(self, policy: str, tbt_s: float | None, stock_chunk: int) -> None:
        from vllm import LLM

        from niyama.demo_model import make
        from niyama.engines.vllm import factory

        captured: list[dict[str, Any]] = []
        make_scheduler = factory.make_scheduler

        def capture(**kwargs: Any) -> Any:
            captured.append(kwargs)
            return make_scheduler(**kwargs)

        factory.make_scheduler = capture
        self._llm = LLM(
            str(make()),
            dtype="float32",
            enforce_eager=True,
            max_model_len=8192,
            max_num_seqs=256,
            max_num_batched_tokens=LARGEST_CHUNK,
            enable_prefix_caching=False,
            scheduler_cls="niyama.engines.vllm.scheduler",
            additional_config={"niyama": {"policy": policy}},
        )
        self._make, self._arguments = make_scheduler, captured[0]
        self._rng = random.Random(3)
        self._tbt_s, self._stock_chunk = tbt_s, stock_chunk

    def tokens_per_second(self, kind: str) -> float:
        """Serve a batch with a fresh scheduler and return output tokens per second."""
        from vllm import SamplingParams
        from vllm.v1.core.sched.scheduler import Scheduler

        core: Any = self._llm.llm_engine.engine_core
        scheduler: Any = (Scheduler if kind == "stock" else self._make)(**self._arguments)
        if kind == "stock":
            scheduler.max_num_scheduled_tokens = self._stock_chunk
        core.engine_core.scheduler = scheduler
        rng = random.Random(5)
        lengths = [rng.randrange(20, 1000) for _ in range(NUM_REQUESTS)]
        prompts: Any = [
            {"prompt_token_ids": [self._rng.randrange(300, 2000) for _ in range(length)]}
            for length in lengths
        ]
        params = [
            SamplingParams(
                max_tokens=NUM_OUTPUT_TOKENS,
                ignore_eos=True,
                temperature=0,
                extra_args=self._promise(number),
            )
            for number in range(NUM_REQUESTS)
        ]
        start = time.perf_counter()
        self._llm.generate(prompts, params, use_tqdm=False)
        return NUM_REQUESTS * NUM_OUTPUT_TOKENS / (time.perf_counter() - start)

    def _promise(self, number: int) -> dict[str, Any]:
        if self._tbt_s is None or number % 3:
            return {"niyama_class": "background"}
        return {"niyama_ttft_ms": READERS_TTFT_S * 1000, "niyama_tbt_ms": self._tbt_s * 1000}


def main() -> int:
    """Take turns and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--policy", default="niyama")
    parser.add_argument("--tbt", type=float, help="seconds, promised to every third request")
    parser.add_argument(
        "--stock-chunk", type=int, default=LARGEST_CHUNK, help="tokens per step of stock vLLM"
    )
    args = parser.parse_args()
    os.environ.update(
        HF_HUB_OFFLINE="1",
        VLLM_CPU_KVCACHE_SPACE="2",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_NO_USAGE_STATS="1",
    )
    engine = Engine(args.policy, args.tbt, args.stock_chunk)
    engine.tokens_per_second("stock")  # warm-up
    kinds = ("stock", args.policy)
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(args.turns):
        for kind in kinds if turn % 2 == 0 else reversed(kinds):
            rates[kind].append(engine.tokens_per_second(kind))
            print(f"turn {turn + 1}: {kind} {rates[kind][-1]:.0f} tokens/s", file=sys.stderr)
    for kind, values in rates.items():
        print(f"{kind}: median {statistics.median(values):.0f} output tokens/s")
    ratios = [ours / stock for ours, stock in zip(rates[args.policy], rates["stock"], strict=True)]
    listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"ratio: median {statistics.median(ratios):.3f} ({listed})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
