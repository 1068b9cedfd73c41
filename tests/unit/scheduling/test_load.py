from __future__ import annotations

import math

import pytest

from niyama.qos import Importance
from niyama.scheduling.load import (
    ALPHA_PER_LEVEL,
    CALM_STEPS,
    LOAD_PER_LEVEL,
    LOAD_WINDOW_S,
    MAX_LEVEL,
    PRESSED_S,
    SHORTEST_S,
    SIZES_PER_OCTAVE,
    Load,
    Steps,
)

HIGH, NORMAL, LOW = sorted(map(int, Importance))


def offered(share: float, work_s: float = 0.5) -> tuple[Load, float]:
    """Return a load that has lasted for long, and the instant."""
    load, now_s = Load(), 0.0
    while now_s < 20 * LOAD_WINDOW_S:
        load.offer(work_s, work_s, NORMAL, now_s)
        now_s += work_s / share
    return load, now_s


def test_load_steady_arrivals_tend_to_their_share() -> None:
    load, now_s = offered(0.5)
    assert load.share(now_s) == pytest.approx(0.5, rel=0.02)


def test_load_young_average_counts_what_came_so_far() -> None:
    load = Load()
    assert load.share(5.0) == 0.0
    load.add(4.0, 100.0)
    assert load.share(100.0) == pytest.approx(4.0 / SHORTEST_S)
    for second in range(101, 130):
        load.add(0.8, second)
    assert load.share(130.0) == pytest.approx(0.9, rel=0.15)


@pytest.mark.parametrize("age_s", [LOAD_WINDOW_S / 2, LOAD_WINDOW_S, 3 * LOAD_WINDOW_S])
def test_load_of_steady_arrivals_does_not_depend_on_the_age_of_the_average(age_s: float) -> None:
    load = Load()
    for tick in range(round(2 * age_s)):
        load.offer(0.65, 0.65, NORMAL, tick / 2)
    assert load.share(age_s) == pytest.approx(1.3, rel=0.02)


def test_load_without_arrivals_fades_by_its_window() -> None:
    load, now_s = offered(1.5)
    faded = load.share(now_s + LOAD_WINDOW_S) / load.share(now_s)
    assert faded == pytest.approx(1 / math.e)
    assert load.share(now_s + 1000 * LOAD_WINDOW_S) == pytest.approx(0.0, abs=1e-9)


def test_load_is_the_same_at_any_time_of_day() -> None:
    shares = []
    for start_s in (0.0, 1e6):
        load = Load()
        for number in range(100):
            work_s = 0.3 + number % 7
            load.offer(work_s, work_s, NORMAL, start_s + number * 60.0)
        shares.append((load.share(start_s + 6000.0), load.worth_s(NORMAL, start_s + 6000.0)))
    assert shares[0] == pytest.approx(shares[1])


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_worth_is_without_bound_while_there_is_time_for_all(share: float) -> None:
    load, now_s = offered(share)
    assert load.worth_s(NORMAL, now_s) == math.inf


def test_worth_is_where_the_smaller_ones_fill_the_engine() -> None:
    load, now_s = Load(), 0.0
    while now_s < 10 * LOAD_WINDOW_S:
        for work_s in (0.1, 0.2, 0.4, 0.8, 1.6):
            load.offer(work_s, work_s, NORMAL, now_s)
        now_s += 2.0  # 0.05 + 0.1 + 0.2 + 0.4 + 0.8: the engine is full with the last class
    worth_s = load.worth_s(NORMAL, now_s)
    assert 0.8 < worth_s <= 1.6
    assert worth_s >= 1.6 / 2 ** (1 / SIZES_PER_OCTAVE)


def test_worth_of_the_less_important_is_what_the_others_leave() -> None:
    load, now_s = Load(), 0.0
    while now_s < 10 * LOAD_WINDOW_S:
        load.offer(0.7, 0.7, NORMAL, now_s)
        for work_s in (0.1, 0.4):
            load.offer(work_s, work_s, LOW, now_s)
        now_s += 1.0  # 0.7 + 0.1 of the engine, and no room for 0.4 more
    assert load.worth_s(NORMAL, now_s) == math.inf
    assert 0.1 < load.worth_s(LOW, now_s) <= 0.4
    assert load.worth_s(HIGH, now_s) == math.inf


@pytest.mark.parametrize("share", [0.9, 1.05])
def test_load_below_the_knee_has_no_alpha(share: float) -> None:
    load, now_s = offered(share)
    assert not load.follow(now_s)
    assert load.alpha_s(0.001) == 0.0


def test_load_alpha_rises_with_load_up_to_its_bound() -> None:
    levels = []
    for share in (1.15, 1.25, 1.55, 2.1, 50.0):
        load, now_s = offered(share)
        assert load.follow(now_s)
        levels.append(load.level)
        assert load.alpha_s(0.001) == pytest.approx(load.level * ALPHA_PER_LEVEL * 0.001)
    assert levels == sorted(set(levels))
    assert levels[-1] == MAX_LEVEL


def test_steps_wait_for_more_than_noise() -> None:
    steps = Steps(1.0)
    assert steps.follow(1.0 + 1.1 * LOAD_PER_LEVEL)
    before = steps.now
    assert not steps.follow(1.0 + 0.9 * LOAD_PER_LEVEL)
    assert steps.now == before
    assert steps.follow(1.0 + 0.5 * LOAD_PER_LEVEL)
    assert steps.now == before - 1


def overloaded(importances: tuple[int, ...], pressing: float) -> tuple[Load, float]:
    """Return a load of 1.3, of which so much is left if those sit out who can, and the instant."""
    load, now_s = Load(), 0.0
    while now_s < 10 * LOAD_WINDOW_S:
        for importance in importances:
            work_s = 1.3 / len(importances)
            load.offer(work_s, pressing * work_s, importance, now_s)
        now_s += 1.0
    return load, now_s


def test_less_important_stand_back_though_sitting_out_makes_room_for_the_urgent() -> None:
    load, now_s = overloaded((NORMAL, LOW), pressing=0.7)
    assert load.follow(now_s)
    assert load.is_beyond
    assert load.alpha_s(0.001) == 0.0
    assert load.handicap_s(0.001) > 60.0


def test_nobody_stands_back_among_equals() -> None:
    load, now_s = overloaded((NORMAL,), pressing=0.7)
    assert not load.follow(now_s)
    assert not load.is_beyond
    assert load.handicap_s(0.001) == 0.0


def test_load_that_presses_nobody_has_no_alpha() -> None:
    load, now_s = offered(3.0)
    assert not load.follow(now_s, margin_s=2 * PRESSED_S)
    assert load.level == 0
    assert load.follow(now_s, margin_s=1.0)
    assert load.level > 0


@pytest.mark.parametrize(("share", "steps"), [(0.2, 1.25), (0.5, 2.0), (0.8, 5.0)])
def test_calm_steps_are_as_short_as_the_load_leaves_time_for(share: float, steps: float) -> None:
    load, now_s = offered(share)
    assert load.calm_step_s(now_s, 0.0, 0.02) == pytest.approx(steps * CALM_STEPS * 0.02, rel=0.02)


def test_calm_step_of_a_busy_engine_is_without_bound() -> None:
    load, now_s = offered(1.02)
    assert load.calm_step_s(now_s, 0.0, 0.02) == math.inf


def test_calm_step_counts_what_waits_as_wanted_within_the_window() -> None:
    load = Load()
    assert load.calm_step_s(0.0, 0.0, 0.02) == pytest.approx(CALM_STEPS * 0.02)
    assert load.calm_step_s(0.0, LOAD_WINDOW_S / 2, 0.02) == pytest.approx(2 * CALM_STEPS * 0.02)
    assert load.calm_step_s(0.0, LOAD_WINDOW_S, 0.02) == math.inf
