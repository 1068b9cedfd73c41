"""A device with a host that launches a step while the device works on the one before."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyama.latency import OnlineModel
from niyama.latency.overlap import MAX_RUN, Lesson, Overlap
from niyama.scheduling.policy import BatchShape

RECORDED = Path(__file__).parents[2] / "data" / "steps_h100_async.jsonl.gz"
DECODES = BatchShape(0, 8, 8_000)
MIXED = DECODES.with_chunk(1000, 0)
Gap = tuple[BatchShape, float, BatchShape]


def cost_s(shape: BatchShape) -> float:
    return 0.005 + 1e-4 * shape.num_decode_tokens + 3e-5 * shape.num_prefill_tokens


def gaps(num_steps: int, launch_s: float, seed: int = 0) -> Iterator[Gap]:
    """Yield each step, the time since the output before, and the next: launches of prefill take time."""
    draw = random.Random(seed)
    decodes = [BatchShape(0, n, 1000 * n) for n in (draw.randint(1, 30) for _ in range(num_steps))]
    shapes = [s.with_chunk(draw.randint(600, 2000), 0) if draw.random() < 0.4 else s for s in decodes]
    done_at = out_at = 0.0
    for shape, following in pairwise(shapes):
        done_at += cost_s(shape)
        launched_at = out_at + (launch_s if following.num_prefill_tokens else 0.0)
        before, out_at = out_at, max(done_at, launched_at)
        yield shape, out_at - before, following


def trained(steps: Iterator[Gap]) -> tuple[OnlineModel, Overlap]:
    model = OnlineModel()
    overlap = Overlap(model)
    for shape, duration_s, following in steps:
        lessons = overlap.end(shape, duration_s, following, duration_s)
        for lesson in [Lesson(shape, duration_s)] if lessons is None else lessons:
            model.observe(*lesson)
    return model, overlap


def test_costs_are_learned_though_launches_hold_the_outputs() -> None:
    by_run, _ = trained(gaps(3000, launch_s=0.022))
    by_step = OnlineModel()
    for shape, duration_s, _ in gaps(3000, launch_s=0.022):
        by_step.observe(shape, duration_s)
    for shape in (DECODES, MIXED):
        error = abs(by_run.predict_s(shape) / cost_s(shape) - 1)
        assert error < 0.1
        assert error < abs(by_step.predict_s(shape) / cost_s(shape) - 1) / 2
    predicted_s = by_run.predict_s(MIXED)
    assert by_run.margin_s(predicted_s) < by_step.margin_s(predicted_s) / 2


def test_launch_time_is_seen_where_it_holds_an_output_only() -> None:
    _, held = trained(gaps(1000, launch_s=0.022))
    assert held.launch_s(MIXED) == pytest.approx(0.022, rel=0.01)
    assert held.launch_s(DECODES) == 0.0
    _, free = trained(gaps(1000, launch_s=0.001))
    assert free.launch_s(MIXED) == 0.0
    assert free.max_tokens(0.0, 2048) == 2048


def test_work_done_ahead_is_what_the_launch_took_beyond_the_step() -> None:
    model, overlap = trained(gaps(3000, launch_s=0.022))
    overlap.forget()
    predicted_s = model.predict_s(DECODES)
    overlap.end(DECODES, 0.022, MIXED, 0.022)
    assert overlap.ahead_s == pytest.approx(0.022 - predicted_s)
    overlap.end(MIXED, model.predict_s(MIXED) - overlap.ahead_s, DECODES, 0.002)
    assert overlap.ahead_s == 0.0


def test_quick_launches_of_small_steps_leave_them_possible() -> None:
    overlap = Overlap(OnlineModel())
    for _ in range(20):
        overlap.end(DECODES, 0.011, DECODES.with_chunk(200, 0), 0.011)
        overlap.end(DECODES, 0.026, DECODES.with_chunk(2000, 0), 0.026)
    assert overlap.max_tokens(0.030, 2048) == 2048
    assert 256 <= overlap.max_tokens(0.015, 2048) < 2048
    assert overlap.max_tokens(0.005, 2048) == 0


STEPS = st.lists(
    st.tuples(st.sampled_from([DECODES, MIXED]), st.floats(1e-4, 1.0), st.booleans()), min_size=1, max_size=40
)


@given(STEPS)
def test_any_history_no_time_is_lost_or_made_up(steps: list[tuple[BatchShape, float, bool]]) -> None:
    overlap = Overlap(OnlineModel())
    open_s: list[float] = []
    for (shape, duration_s, overlaps), (following, _, _) in pairwise([*steps, (DECODES, 1.0, False)]):
        lessons = overlap.end(shape, duration_s, following if overlaps else None, duration_s)
        open_s.append(duration_s)
        if lessons is None:
            assert len(open_s) == 1
            open_s = []
        elif lessons:
            assert math.fsum(s for _, s in lessons) == pytest.approx(math.fsum(open_s))
            open_s = []
        assert len(open_s) < MAX_RUN
        assert overlap.ahead_s >= 0.0
    assert not open_s


@given(st.lists(st.tuples(st.sampled_from([DECODES, MIXED]), st.floats(1e-4, 1.0)), max_size=40))
def test_without_overlap_nothing_changes(steps: list[tuple[BatchShape, float]]) -> None:
    overlap = Overlap(OnlineModel())
    for shape, duration_s in steps:
        assert overlap.end(shape, duration_s, None, 0.0) is None
        assert overlap.ahead_s == 0.0
    assert overlap.max_tokens(0.0, 512) == 512


def test_recorded_h100_pairs_between_quick_launches_are_predicted() -> None:
    """A decode-only step and the mixed one behind it: together their time is known, alone it is not."""
    with gzip.open(RECORDED, "rt") as log:
        lines = [json.loads(line) for line in log]
    shapes = [BatchShape(*(line[name] for name in BatchShape._fields)) for line in lines]
    seconds = [line["ended_at"] - line["started_at"] for line in lines]
    errors: dict[str, float] = {}
    for way in ("by step", "by run"):
        model, real_s, wrong_s = OnlineModel(), 0.0, 0.0
        overlap = Overlap(model)
        for n in range(len(shapes) - 2):
            prefill = [shape.num_prefill_tokens > 0 for shape in shapes[n : n + 3]]
            if n > 200 and prefill == [False, True, False]:
                pair_s = seconds[n] + seconds[n + 1]
                predicted_s = model.predict_s(shapes[n]) + model.predict_s(shapes[n + 1])
                real_s, wrong_s = real_s + pair_s, wrong_s + abs(pair_s - predicted_s)
            lessons = (
                overlap.end(shapes[n], seconds[n], shapes[n + 1], seconds[n]) if way == "by run" else None
            )
            for lesson in [Lesson(shapes[n], seconds[n])] if lessons is None else lessons:
                model.observe(*lesson)
        errors[way] = wrong_s / real_s
    assert errors["by run"] < 0.1 < 0.15 < errors["by step"]


def test_who_waits_for_the_device_learns_of_no_work_done_ahead() -> None:
    """A model that predicts too little would else take its own error for a device that is ahead, for ever."""
    model = OnlineModel()
    overlap = Overlap(model)
    real_s = 2 * model.predict_s(MIXED) + model.margin_s(model.predict_s(MIXED))
    for _ in range(20):
        overlap.end(MIXED, real_s, MIXED, launch_s=0.0005, waited_s=real_s - 0.0005)
        assert overlap.ahead_s == 0.0
    assert overlap.launch_s(MIXED) == 0.0
    overlap.end(MIXED, real_s, MIXED, launch_s=0.0005, waited_s=0.0)
    assert overlap.ahead_s == pytest.approx(0.0005), "no further ahead than the launch is long"


def test_a_launch_of_unknown_length_teaches_nothing_of_launches() -> None:
    overlap = Overlap(OnlineModel())
    for _ in range(20):
        overlap.end(DECODES, 0.03, MIXED, launch_s=0.03)
    before = overlap.launch_s(MIXED)
    for _ in range(200):
        assert overlap.end(DECODES, 0.03, MIXED, launch_s=None) is not None
        assert overlap.ahead_s == 0.0
    assert overlap.launch_s(MIXED) == before > 0.0
