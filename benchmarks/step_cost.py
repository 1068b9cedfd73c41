"""What does Niyama add to a step of vLLM's scheduler?

Real vLLM scheduler classes, no model: a fake forward pass returns one token per request at once.
256 requests decode; 100, 1,000 or 10,000 wait. Every step one request finishes and one arrives.
Prints, per number of waiting requests, the median and p99 of vLLM's own `schedule()` and of what
Niyama adds to the step (plan, steer, take note of the launch, take note of the end), and
the ratio of the medians. Expected: ratio at most 0.10 at 1,000 waiting, and the added median
grows by less than half from 100 to 10,000.

    python benchmarks/step_cost.py [--steps 400] [--running 256] [--waiting 100,1000,10000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


class Clocked:
    """Sums the time spent in some methods of an object, in seconds, since the last reset."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def wrap(self, owner: Any, name: str) -> None:
        """Time a method of an object from now on."""
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.spent_s += time.perf_counter() - start

        setattr(owner, name, timed)

    def take(self) -> float:
        """Return the time spent, and start anew."""
        spent_s, self.spent_s = self.spent_s, 0.0
        return spent_s


def make_engine(max_num_seqs: int, policy: str) -> Any:
    """Return a steered vLLM scheduler with room for everything, without a model."""
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from niyama.demo_model import default_path, make
    from niyama.engines.vllm import scheduler

    config = EngineArgs(
        model=str(make(default_path())),
        dtype="float32",
        enforce_eager=True,
        max_model_len=8192,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=2048,
        enable_prefix_caching=True,
        additional_config={"niyama": {"policy": policy}},
    ).create_engine_config()
    num_blocks = 200_000
    config.cache_config.num_gpu_blocks = num_blocks
    spec = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=1, dtype=torch.float32)
    kv = KVCacheConfig(
        num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["l"], spec)]
    )
    return scheduler(
        vllm_config=config,
        kv_cache_config=kv,
        structured_output_manager=StructuredOutputManager(config),
        block_size=16,
        log_stats=True,
    )


class Traffic:
    """Makes requests of three classes and answers steps as a model would."""

    def __init__(self, scheduler: Any) -> None:
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

        self.scheduler = scheduler
        self.rng = random.Random(1)
        self.count = 0
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(scheduler.block_size, sha256)

    def arrive(self, num_tokens: int) -> None:
        """Add a request with a random prompt."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        classes = ("interactive", "batch", "background")
        params = SamplingParams(
            max_tokens=4000, extra_args={"niyama_class": classes[self.count % 3], "niyama_ttft_ms": 1e6}
        )
        params.update_from_generation_config({}, None)
        prompt = [self.rng.randrange(2000) for _ in range(num_tokens)]
        self.count += 1
        self.scheduler.add_request(Request(f"r{self.count}", prompt, params, None, block_hasher=self.hasher))

    def step(self) -> Any:
        """Run one step of the scheduler, every due token coming out at once."""
        from vllm.v1.outputs import ModelRunnerOutput

        output = self.scheduler.schedule()
        ids = list(output.num_scheduled_tokens)
        requests = self.scheduler.requests
        tokens = [[7] if requests[i].num_computed_tokens >= requests[i].num_tokens else [] for i in ids]
        result = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={i: n for n, i in enumerate(ids)},
            sampled_token_ids=tokens,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        self.scheduler.update_from_output(output, result)
        return output


def measure(num_running: int, num_waiting: int, num_steps: int, policy: str) -> dict[str, float]:
    """Return medians and p99 in microseconds."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import RequestStatus

    scheduler = make_engine(num_running, policy)
    traffic = Traffic(scheduler)
    for _ in range(num_running):
        traffic.arrive(20)
    while len(scheduler.niyama._decoding) < num_running:
        traffic.step()
    for _ in range(num_waiting):
        traffic.arrive(traffic.rng.randrange(50, 2000))
    ours, theirs = Clocked(), Clocked()
    for name in ("before_schedule", "after_schedule", "after_step"):
        ours.wrap(scheduler.niyama, name)
    own_schedule = Scheduler.schedule
    clock = theirs

    def timed_schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        output = own_schedule(self, *args, **kwargs)
        clock.spent_s += time.perf_counter() - start
        return output

    Scheduler.schedule = timed_schedule
    added, base = [], []
    try:
        for number in range(num_steps + 50):
            if number % 4 == 0:
                victim = scheduler.running[number % 7].request_id
                scheduler.finish_requests(victim, RequestStatus.FINISHED_STOPPED)
                traffic.arrive(traffic.rng.randrange(50, 2000))
            traffic.step()
            if number >= 50:
                added.append(ours.take() * 1e6)
                base.append(theirs.take() * 1e6)
            else:
                ours.take(), theirs.take()
    finally:
        Scheduler.schedule = own_schedule
    return {
        "waiting": num_waiting,
        "schedule_p50_us": statistics.median(base),
        "schedule_p99_us": statistics.quantiles(base, n=100)[98],
        "added_p50_us": statistics.median(added),
        "added_p99_us": statistics.quantiles(added, n=100)[98],
        "ratio_p50": statistics.median(added) / statistics.median(base),
        "fallback_steps": scheduler.niyama.books.state(scheduler, scheduler.niyama.policy, None)[
            "fallback_steps"
        ],
    }


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--running", type=int, default=256)
    parser.add_argument("--waiting", default="100,1000,10000")
    parser.add_argument("--policy", default="niyama")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [measure(args.running, int(n), args.steps, args.policy) for n in args.waiting.split(",")]
    if args.json:
        json.dump(rows, sys.stdout, indent=1)
        return 0
    print(f"{args.running} running, policy {args.policy}; microseconds per step")
    print("waiting  schedule() p50   p99 | added p50     p99 | ratio")
    for row in rows:
        print(
            f"{row['waiting']:>7.0f}  {row['schedule_p50_us']:>14.0f} {row['schedule_p99_us']:>5.0f} |"
            f" {row['added_p50_us']:>9.0f} {row['added_p99_us']:>7.0f} | {row['ratio_p50']:.3f}"
            + ("" if not row["fallback_steps"] else f"  ({row['fallback_steps']:.0f} fallback steps!)")
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
