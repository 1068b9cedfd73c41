"""How well does the online step-time model predict recorded steps, and what does a call cost?

    python benchmarks/latency_model.py FILE...      # step logs (JSON lines, .gz too), replayed in order

For every log: the error table of `niyama steps`, for a model that starts untrained and learns as it
goes; the first `--warm-up` share is learned from but not counted. Then, at the median, the cost of
one call in microseconds. Expect on a quiet machine: error near 10 % or below, late 3-5 %, predict
below 1 us, observe about 10 us.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from niyama.cli.steps import describe, summarise
from niyama.latency import OnlineModel
from niyama.scheduling.policy import BatchShape


def read_log(path: str) -> list[dict[str, Any]]:
    """Return the clean steps of a log; `predicted_s` and `margin_s` are not needed."""
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path, encoding="utf-8") as log:
        steps = [json.loads(line) for line in log if line.strip()]
    return [step for step in steps if step.get("is_clean", True)]


def replay(steps: list[dict[str, Any]], model: OnlineModel) -> Iterator[dict[str, Any]]:
    """Yield every step with the prediction that `model` made before it learned from the step."""
    for step in steps:
        shape = BatchShape(*(step[name] for name in BatchShape._fields))
        predicted_s = model.predict_s(shape)
        margin_s = model.margin_s(predicted_s)
        model.observe(shape, step["duration_s"])
        yield {**step, "predicted_s": predicted_s, "margin_s": margin_s}


def microseconds(call: Callable[[], object], *, calls: int = 2000, repeats: int = 9) -> float:
    """Return the cost of a call, the median of some repeats."""
    costs = []
    for _ in range(repeats):
        started_at = time.perf_counter()
        for _ in range(calls):
            call()
        costs.append((time.perf_counter() - started_at) / calls)
    return statistics.median(costs) * 1e6


def print_costs(model: OnlineModel) -> None:
    """Print what each call of a trained model costs."""
    decodes = BatchShape(0, 16, 12_000)
    mixed = decodes.with_chunk(300, 500)
    limit_s = 2 * model.safe_s(mixed)
    for name, call in {
        "predict_s": lambda: model.predict_s(mixed),
        "margin_s": lambda: model.margin_s(limit_s),
        "largest_chunk": lambda: model.largest_chunk(decodes, 500, limit_s, 2048),
        "observe, decode only": lambda: model.observe(decodes, 0.005),
        "observe, mixed": lambda: model.observe(mixed, 0.04),
    }.items():
        print(f"{name:22}{microseconds(call):8.2f} us")


def main() -> None:
    """Replay every log, then time the calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--warm-up", type=float, default=0.1, help="share of steps not counted")
    args = parser.parse_args()
    for path in args.files:
        model = OnlineModel()
        steps = list(replay(read_log(path), model))
        print(path, describe(summarise(steps[int(len(steps) * args.warm_up) :])), sep="\n")
    print_costs(model)


if __name__ == "__main__":
    main()
