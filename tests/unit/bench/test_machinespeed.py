"""How fast a machine was, from the steps of a run."""

from __future__ import annotations

import pytest
from tests.unit.bench.recorded import TRUTH

from niyama.bench.machinespeed import MachineSpeed
from niyama.bench.serverlog import Step
from niyama.scheduling.policy import BatchShape

SHAPE = BatchShape(256, 16, 4000)
USUAL_S = TRUTH.predict_s(SHAPE)


def step(at: float, times: float, *, is_clean: bool = True) -> Step:
    return Step(SHAPE, at, at + times * USUAL_S, 16, is_clean)


def test_a_window_is_as_slow_as_its_steps_together() -> None:
    speed = MachineSpeed([step(100.0, 1.0), step(101.0, 1.5), step(110.0, 0.8)], TRUTH, window_s=5.0)
    assert speed.slowness(100.0) == pytest.approx(1.25)
    assert speed.slowness(104.9) == pytest.approx(1.25)
    assert speed.slowness(112.0) == pytest.approx(0.8)
    assert (speed.fastest, speed.slowest) == pytest.approx((0.8, 1.25))


def test_moments_without_steps_are_as_the_window_before() -> None:
    speed = MachineSpeed([step(100.0, 1.2), step(110.0, 0.8)], TRUTH, window_s=5.0)
    assert speed.slowness(107.0) == pytest.approx(1.2)
    assert speed.slowness(1e6) == pytest.approx(0.8)
    assert speed.slowness(0.0) == pytest.approx(1.2), "as the first"


def test_few_steps_at_the_end_of_a_run_are_no_slow_machine() -> None:
    steps = [step(at / 20, 1.0) for at in range(200)]
    speed = MachineSpeed([*steps, step(10.0, 1.8), step(10.1, 1.8)], TRUTH, window_s=5.0)
    assert speed.slowest == pytest.approx(1.0)
    assert speed.slowness(10.2) == pytest.approx(1.0)


def test_stalls_and_steps_that_are_not_clean_do_not_make_a_machine_slow() -> None:
    speed = MachineSpeed([step(0.0, 50.0), step(1.0, 9.0, is_clean=False)], TRUTH)
    assert speed.slowness(0.0) == pytest.approx(2.0), "what is beyond twice is a stall"


def test_without_steps_the_machine_is_as_usual() -> None:
    speed = MachineSpeed([], TRUTH)
    assert (speed.slowness(3.0), speed.fastest, speed.slowest) == (1.0, 1.0, 1.0)
