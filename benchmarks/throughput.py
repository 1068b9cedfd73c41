"""Without pressure, does Niyama cost throughput? Stock vLLM and ours in turn, in one run.

Each turn is a fresh process with vLLM's engine in it, no HTTP: 300 requests at once, prompts of 20 to
1,000 tokens, 64 tokens out, of a class whose deadline is far away. Prints the median tokens per
second of each and their ratio, with all turns. Expected: a ratio of at least 0.98.

    python benchmarks/throughput.py [--turns 5]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any

NUM_REQUESTS, NUM_OUTPUT_TOKENS = 300, 64


def serve_once(kind: str) -> float:
    """Return output tokens per second of the second of two equal batches."""
    os.environ.update(
        HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="2", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1"
    )
    from vllm import LLM, SamplingParams

    from niyama.demo_model import make

    ours: dict[str, Any] = {"scheduler_cls": "niyama.engines.vllm.scheduler"} if kind != "stock" else {}
    if ours:
        ours["additional_config"] = {"niyama": {"policy": kind}}
    llm = LLM(
        str(make()),
        dtype="float32",
        enforce_eager=True,
        max_model_len=8192,
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        **ours,
    )
    rng = random.Random(3)
    params = SamplingParams(
        max_tokens=NUM_OUTPUT_TOKENS,
        ignore_eos=True,
        temperature=0,
        extra_args={"niyama_class": "background"},
    )
    rate = 0.0
    for _ in range(2):
        prompts: Any = [
            {"prompt_token_ids": [rng.randrange(300, 2000) for _ in range(rng.randrange(20, 1000))]}
            for _ in range(NUM_REQUESTS)
        ]
        start = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        rate = NUM_REQUESTS * NUM_OUTPUT_TOKENS / (time.perf_counter() - start)
    return rate


def main() -> int:
    """Take turns and print the ratio of the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--policy", default="niyama")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(serve_once(args.one)))
        return 0
    rates: dict[str, list[float]] = {"stock": [], args.policy: []}
    for turn in range(args.turns):
        for kind in sorted(rates, reverse=bool(turn % 2)):
            command = [sys.executable, __file__, "--one", kind]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
            rates[kind].append(float(done.stdout.splitlines()[-1]))
            print(f"turn {turn + 1}: {kind} {rates[kind][-1]:.0f} tokens/s", file=sys.stderr)
    for kind, values in rates.items():
        listed = ", ".join(f"{value:.0f}" for value in values)
        print(f"{kind}: median {statistics.median(values):.0f} output tokens/s ({listed})")
    ratio = statistics.median(rates[args.policy]) / statistics.median(rates["stock"])
    print(f"ratio {ratio:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
