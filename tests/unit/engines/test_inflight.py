"""When steps begin and end, in a process that launches one before the other's output is in."""

from __future__ import annotations

import pytest
from tests.property.hosts import linear_model

from niyama.engines.vllm.inflight import Flight, InFlight
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Launch, Plan

MODEL = linear_model(fixed_s=0.1, token_s=0.001, decode_s=0.0)
POLICY = NiyamaPolicy(MODEL)
MIXED = BatchShape(100, 4, 400)
STEP_S = 0.2
"""What the model says of `MIXED`."""


def step(number: int, at: float) -> InFlight:
    plan = Plan(104, [], MIXED, MODEL.predict_s(MIXED))
    return InFlight(number, Launch(at, [], MIXED), plan, at, POLICY)


def test_an_idle_engine_starts_now_and_a_busy_one_when_it_is_done() -> None:
    flight = Flight(MODEL)
    assert flight.starts_at(5.0) == 5.0
    flight.begin(step(1, 5.0))
    assert flight.starts_at(5.01) == pytest.approx(5.0 + STEP_S)
    flight.begin(step(2, 5.01))
    assert flight.starts_at(5.02) == pytest.approx(5.0 + 2 * STEP_S)
    assert flight.starts_at(9.0) == 9.0, "whatever was expected, it cannot start in the past"


def test_ends_come_in_order_and_time_counts_from_the_one_before() -> None:
    flight = Flight(MODEL)
    flight.begin(step(1, 1.0))
    flight.begin(step(2, 1.1))
    assert flight.end(2, 1.2, has_work=True) is None
    first = flight.end(1, 1.2, has_work=True)
    second = flight.end(2, 1.5, has_work=False)
    assert first is not None
    assert second is not None
    assert (first.started_at, second.started_at) == (1.0, 1.2)
    flight.begin(step(3, 7.0))
    third = flight.end(3, 7.3, has_work=False)
    assert third is not None
    assert third.started_at == 7.0, "the engine was idle in between"
    assert len(flight) == 0


@pytest.mark.parametrize(("gap_s", "started_at"), [(0.02, 1.2), (60.0, 61.2)])
def test_a_pause_between_two_steps_is_no_part_of_the_second(gap_s: float, started_at: float) -> None:
    """vLLM stops stepping with requests in it: `/pause?mode=keep`, an adapter swap, its last one aborted."""
    flight = Flight(MODEL)
    flight.begin(step(1, 1.0))
    flight.end(1, 1.2, has_work=True)
    flight.begin(step(2, 1.2 + gap_s))
    ended = flight.end(2, 1.5 + gap_s, has_work=True)
    assert ended is not None
    assert ended.started_at == pytest.approx(started_at)


def test_steps_that_never_end_are_given_up_once_a_later_one_does() -> None:
    flight = Flight(MODEL)
    for number in range(4):
        flight.begin(step(number, float(number)))
    assert flight.take_lost(0) == []
    assert flight.take_lost(9) == [], "of a step that was never begun nothing is known"
    assert [lost.output for lost in flight.take_lost(2)] == [0, 1]
    ended = flight.end(2, 5.0, has_work=True)
    assert ended is not None
    assert ended.step.output == 2
    assert len(flight) == 1


def test_a_slow_step_is_no_device_that_is_ahead() -> None:
    """Every step takes half as long again as predicted; the planned start must not run away."""
    flight, at = Flight(MODEL), 0.0
    flight.begin(step(0, at))
    for number in range(1, 50):
        flight.begin(step(number, at))
        flight.launched(at + 0.001)
        at += 1.5 * STEP_S
        assert flight.end(number - 1, at, has_work=True) is not None
        assert flight.starts_at(at) == pytest.approx(at + STEP_S)
