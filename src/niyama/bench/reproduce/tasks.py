"""The simulations that figures are made of. Each is pure: the same task gives the same result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from niyama.bench.reproduce.cases import FIXED_CHUNK, LONG_PROMPT_TOKENS, Case
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.deadlines import Anchor
from niyama.scheduling.policy import BatchShape, LatencyModel
from niyama.scheduling.registry import make_policy
from niyama.sim.capacity import Question, probe, search_around
from niyama.sim.report import late_share, late_share_by_importance
from niyama.sim.run import Run, simulate
from niyama.sim.verdicts import Served

CHUNKS = (128, 192, 320, 384, 448, 512, 768, 1024, 2048, 4096)
"""Fixed chunks that are tried besides 256, in tokens."""


class Found(NamedTuple):
    """A capacity.

    Attributes:
        qps: Highest load in time, requests per second; 0 if none is.
        bound_qps: Throughput without deadlines.
        chunk: Tokens per step, where it is not the policy's default.
        is_capped: Whether the highest load tried, the throughput without deadlines in steps of the
            policy's size, is still in time: a finite run may serve slightly more.
    """

    qps: float
    bound_qps: float
    chunk: int | None = None
    is_capped: bool = False


def qps_text(qps: float, *, is_capped: bool = False) -> str:
    """Return a capacity as text; `>=` before one where the search hit its ceiling."""
    return f">= {qps:.2f}" if is_capped else f"{qps:.2f}"


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest load at which no class has more than 1 % late.

    Short runs find where to look; long ones decide, from there on up or down. The steps are
    parts of the bound, and no load is tried beyond what the policy's steps can hold.
    """

    case: Case
    hours: float
    screen_hours: float
    resolution: int

    def run(self) -> Found:
        """Search."""
        bound_qps = self.case.bound_qps()
        step_qps = bound_qps / self.resolution
        most = math.floor(self.case.policy_bound_qps() / step_qps)
        start = most * 9 // 10
        if self.case.policy in FIXED_CHUNK and self.screen_hours < self.hours:
            # Others keep up with any load for so short a time, and show nothing.
            start = self._highest(self.screen_hours, step_qps, most, start)
        low = self._highest(self.hours, step_qps, most, start)
        return Found(low * step_qps, bound_qps, self.case.chunk, is_capped=low == most)

    def question(self, hours: float) -> Question:
        """Return what is asked of every load, in runs of so many hours."""
        return Question(
            setup=self.case.setup(), workload=self.case.workload(), duration_s=hours * 3600.0, max_late=0.01
        )

    def _highest(self, hours: float, step_qps: float, most: int, start: int) -> int:
        question = self.question(hours)
        return search_around(lambda point: probe(question, point * step_qps), most, start).low


@dataclass(frozen=True, slots=True)
class BestChunk:
    """The fixed chunk that serves a policy best, by short runs; None for its default.

    Long runs may rank chunks differently, so whoever reports it compares it with the default.

    Each chunk is tried at a load one step above the best so far, so that a worse one costs one run.
    """

    base: Capacity

    def run(self) -> int | None:
        """Search."""
        hours = self.base.screen_hours
        short = replace(self.base, hours=hours)
        step_qps = short.case.bound_qps() / short.resolution
        best, best_chunk = round(short.run().qps / step_qps), short.case.chunk
        for chunk in CHUNKS:
            tried = replace(short.case, chunk=chunk)
            question = replace(short, case=tried).question(hours)
            while (best + 1) * step_qps <= tried.policy_bound_qps():
                if not probe(question, (best + 1) * step_qps).is_met:
                    break
                best, best_chunk = best + 1, chunk
        return best_chunk


class Outcome(NamedTuple):
    """One load, served to the last token.

    Attributes:
        late: Share of late requests, of `all` and of every class.
        late_by_length: Of `short` and `long` prompts.
        late_by_importance: Of every importance.
        ttft_s: By class, p50 and p95; `ttlt_s` likewise.
        timeline: Late share of those who arrived within each window.
    """

    qps: float
    num_requests: int
    late: dict[str, float]
    late_by_length: dict[str, float]
    late_by_importance: dict[str, float]
    ttft_s: dict[str, tuple[float, float]]
    ttlt_s: dict[str, tuple[float, float]]
    relegated: float
    timeline: list[float]


@dataclass(frozen=True, slots=True)
class Load:
    """Serve so many requests per second for so many hours.

    Attributes:
        window_s: Width of the windows of the timeline.
    """

    case: Case
    qps: float
    hours: float
    window_s: float = 300.0

    def run(self) -> Outcome:
        """Simulate, and count who was late."""
        return self._outcome(self.serve())

    def serve(self) -> Run:
        """Simulate."""
        num_requests = max(1, round(self.hours * 3600.0 * self.qps))
        arrivals = list(self.case.workload().requests(self.qps, num_requests))
        return simulate(self.case.setup(), arrivals)

    def _outcome(self, run: Run) -> Outcome:
        served, criterion = run.served, self.case.criterion
        lengths = {"short": [0, 0], "long": [0, 0]}
        windows: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        for done in served:
            is_late = done.is_late(criterion)
            is_long = done.request.num_prompt_tokens > LONG_PROMPT_TOKENS
            window = windows[int(done.request.arrived_at // self.window_s)]
            for count in (lengths["long" if is_long else "short"], window):
                count[0] += is_late
                count[1] += 1
        return Outcome(
            qps=self.qps,
            num_requests=len(served),
            late=late_share(served, criterion),
            late_by_length={name: late / total if total else 0.0 for name, (late, total) in lengths.items()},
            late_by_importance=late_share_by_importance(served, criterion),
            ttft_s=_percentiles((done, done.first_at) for done in served),
            ttlt_s=_percentiles((done, done.finished_at) for done in served),
            relegated=sum(done.is_relegated for done in served) / max(1, len(served)),
            timeline=[
                windows[n][0] / windows[n][1] if n in windows else 0.0 for n in range(max(windows) + 1)
            ],
        )


def _percentiles(instants: Iterable[tuple[Served, float]]) -> dict[str, tuple[float, float]]:
    """Return p50 and p95 of the time since arrival, by class."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for done, at in instants:
        values[done.request.qos_class].append(at - done.request.arrived_at)
    return {
        name: (_rank(sorted(some), 0.50), _rank(sorted(some), 0.95)) for name, some in sorted(values.items())
    }


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class NotedModel:
    """A step-time model that notes the steps which it is told of, and leaves the rest to another."""

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self.shapes: list[BatchShape] = []
        self.durations_s: list[float] = []

    def predict_s(self, shape: BatchShape) -> float:
        """See `LatencyModel.predict_s`."""
        return self._model.predict_s(shape)

    def margin_s(self, predicted_s: float) -> float:
        """See `LatencyModel.margin_s`."""
        return self._model.margin_s(predicted_s)

    def largest_chunk(self, shape: BatchShape, context: int, limit_s: float, max_tokens: int) -> int:
        """See `LatencyModel.largest_chunk`."""
        return self._model.largest_chunk(shape, context, limit_s, max_tokens)

    def efficient_chunk(self, shape: BatchShape, context: int, num_tokens: int) -> int:
        """See `LatencyModel.efficient_chunk`."""
        return self._model.efficient_chunk(shape, context, num_tokens)

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        """Note a step."""
        self.shapes.append(shape)
        self.durations_s.append(duration_s)
        self._model.observe(shape, duration_s)

    def stats(self) -> Mapping[str, object]:
        """See `LatencyModel.stats`."""
        return self._model.stats()


class Steps(NamedTuple):
    """What a replica did, step by step: the end of each and how long it took, its prefill and decode tokens.

    Seconds. Between two steps the replica may have been idle, so a step may take less than from end to end.
    """

    ended_at: list[float]
    durations_s: list[float]
    prefill_tokens: list[int]
    decode_tokens: list[int]
    late: float


@dataclass(frozen=True, slots=True)
class StepSizes:
    """Record the steps of a run."""

    case: Case
    qps: float
    hours: float

    def run(self) -> Steps:
        """Simulate."""
        num_requests = max(1, round(self.hours * 3600.0 * self.qps))
        noted: list[NotedModel] = []

        def make(model: LatencyModel, anchor: Anchor, chunk: int | None) -> BasePolicy:
            noted.append(NotedModel(model))
            return make_policy(self.case.policy, noted[-1], anchor, chunk)

        setup = replace(self.case.setup(), factory=make)
        run = simulate(setup, self.case.workload().requests(self.qps, num_requests))
        late = sum(done.is_late(self.case.criterion) for done in run.served)
        return Steps(
            ended_at=list(run.replicas[0].ended_at),
            durations_s=noted[-1].durations_s,
            prefill_tokens=[shape.num_prefill_tokens for shape in noted[-1].shapes],
            decode_tokens=[shape.num_decode_tokens for shape in noted[-1].shapes],
            late=late / max(1, len(run.served)),
        )
