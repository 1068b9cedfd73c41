"""What does learning runs of overlapping steps change, on a recorded asynchronous engine?

    python benchmarks/async_model.py FILE...      # step logs (JSON lines, .gz too), replayed in order

Every log is replayed through an untrained model twice: learning every step by itself, and by
`niyama.latency.overlap`. Before each step the outputs of this one and the next three are predicted;
the first tenth is not counted.

    error N   mean error of the time until the Nth output, as a share of it
    late      share of second outputs (what a plan is made for) later than predicted plus margin
    mixed     the same, where the planned step has prefill
    clean 2   `error 2` where no launch with prefill touches the pair's ends, ...
    late cl.  ... and the share late there
    margin    mean margin of a planned step with prefill, as a share of its prediction

A step log has no launch instants: a launch counts from the output before.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from niyama.latency import OnlineModel
from niyama.latency.overlap import Overlap
from niyama.scheduling.policy import BatchShape

AHEAD = 4
WARM_UP = 0.1
STALL_S = 0.5


class Step(NamedTuple):
    """A recorded step; `overlaps` if the next was launched before it ended."""

    shape: BatchShape
    duration_s: float
    overlaps: bool


def read_steps(path: str) -> list[Step]:
    """Return the steps of a log. A next step that starts where this one ends was launched before."""
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path, encoding="utf-8") as log:
        lines: list[dict[str, Any]] = [json.loads(line) for line in log if line.strip()]
    shapes = [BatchShape(*(line[name] for name in BatchShape._fields)) for line in lines]
    overlaps = [line["ended_at"] == after["started_at"] for line, after in pairwise(lines)] + [False]
    durations = [line["ended_at"] - line["started_at"] for line in lines]
    return [Step(*step) for step in zip(shapes, durations, overlaps, strict=True)]


class Mean:
    """A sum over a sum."""

    def __init__(self) -> None:
        self._over, self._under = 0.0, 0.0

    def add(self, over: float, under: float = 1.0) -> None:
        """Add to both."""
        self._over, self._under = self._over + over, self._under + under

    def __str__(self) -> str:
        return f"{self._over / self._under:8.1%}" if self._under else "       -"


class Learner:
    """A model, fed step by step or run by run, and its predictions of outputs."""

    def __init__(self, *, by_run: bool) -> None:
        self.model = OnlineModel()
        self._overlap = Overlap(self.model) if by_run else None

    def outputs(self, shapes: Sequence[BatchShape]) -> list[float]:
        """Return the predicted times until the output of each step but the last, which is launched."""
        done_at = -self._overlap.ahead_s if self._overlap is not None else 0.0
        out_at = 0.0
        predicted = []
        for shape, following in pairwise(shapes):
            done_at += self.model.predict_s(shape)
            launch_s = self._overlap.launch_s(following) if self._overlap is not None else 0.0
            out_at = max(done_at, out_at + launch_s)
            predicted.append(out_at)
        return predicted

    def see(self, step: Step, following: BatchShape) -> None:
        """Learn from a step that ended."""
        lessons = None
        if self._overlap is not None:
            seen = following if step.overlaps else None
            lessons = self._overlap.end(step.shape, step.duration_s, seen, step.duration_s)
        for shape, duration_s in [step[:2]] if lessons is None else lessons:
            self.model.observe(shape, duration_s)


def measure(steps: Sequence[Step], learner: Learner) -> dict[str, Mean]:
    """Return error, lateness and margin of a learner over a log."""
    names = ("error 1", "error 2", "error 4", "late", "mixed", "clean 2", "late cl.", "margin")
    means = {name: Mean() for name in names}
    for number in range(len(steps) - AHEAD - 1):
        window = steps[number : number + AHEAD + 1]
        is_whole = all(step.overlaps and step.duration_s < STALL_S for step in window[:-1])
        if is_whole and number >= WARM_UP * len(steps):
            score(window, learner, means)
        learner.see(steps[number], steps[number + 1].shape)
    return means


def score(window: Sequence[Step], learner: Learner, means: dict[str, Mean]) -> None:
    """Compare the predictions for a window with what came."""
    predicted = learner.outputs([step.shape for step in window])
    for count in (1, 2, 4):
        real_s = sum(step.duration_s for step in window[:count])
        means[f"error {count}"].add(abs(real_s - predicted[count - 1]), real_s)
    real_s = window[0].duration_s + window[1].duration_s
    planned_s = learner.model.predict_s(window[1].shape)
    margin_s = learner.model.margin_s(planned_s)
    is_late = real_s > predicted[1] + margin_s
    means["late"].add(is_late)
    if window[1].shape.num_prefill_tokens:
        means["mixed"].add(is_late)
        means["margin"].add(margin_s, planned_s)
    if not window[0].shape.num_prefill_tokens and not window[2].shape.num_prefill_tokens:
        means["clean 2"].add(abs(real_s - predicted[1]), real_s)
        means["late cl."].add(is_late)


def main() -> None:
    """Print a table per log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    for path in parser.parse_args().files:
        steps = read_steps(path)
        rows = {name: measure(steps, Learner(by_run=name == "by run")) for name in ("by step", "by run")}
        print(f"{path}: {len(steps)} steps")
        print("        " + "".join(f"{name:>9}" for name in rows["by run"]))
        for name, means in rows.items():
            print(f"{name:8}" + "".join(f" {mean}" for mean in means.values()))


if __name__ == "__main__":
    main()
