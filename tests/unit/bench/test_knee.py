from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from niyama.bench.knee import GRID, GUESS, STEP, is_in_time, passes, raise_knee, raise_knees


def search(limit: float, floor: float = 0.0, expected: float | None = None) -> tuple[float, list[float]]:
    """Return the knee that is found where loads up to `limit` hold, and what was tried."""
    tried: list[float] = []

    async def holds(load: float) -> bool:
        tried.append(load)
        return load <= limit + 1e-9

    return asyncio.run(raise_knee(holds, floor, expected)), tried


@pytest.mark.parametrize("limit", [0.0, *GRID, 99.0])
def test_the_knee_is_found_wherever_it_is_in_few_tries(limit: float) -> None:
    found, tried = search(limit)
    assert found == pytest.approx(min(limit, GRID[-1]))
    assert len(tried) == len(set(tried)) <= 7


@pytest.mark.parametrize("limit", [0.3, 0.8, 0.85, 1.4, 9.0])
def test_a_known_floor_is_raised_or_kept(limit: float) -> None:
    found, tried = search(limit, floor=0.8)
    assert found == pytest.approx(max(0.8, min(limit, GRID[-1])))
    assert tried[0] == pytest.approx(0.85)
    assert min(tried) > 0.8
    if limit <= 0.8:
        assert len(tried) == 1


@pytest.mark.parametrize("knee", GRID)
def test_a_knee_where_it_is_expected_takes_two_tries(knee: float) -> None:
    assert search(knee, expected=knee)[0] == knee
    assert search(knee, expected=knee)[1] == [load for load in GRID if load >= knee][:2]


@pytest.mark.parametrize("limit", [0.0, *GRID, 99.0])
@pytest.mark.parametrize("expected", [0.0, 0.3, 0.85, 1.6, GRID[-1]])
def test_a_knee_is_found_wherever_it_was_expected(limit: float, expected: float) -> None:
    found, tried = search(limit, expected=expected)
    assert found == pytest.approx(min(limit, GRID[-1]))
    steps_off = abs(limit - expected) / STEP
    assert len(tried) == len(set(tried)) <= min(10, 4 + steps_off)


def test_what_is_expected_of_another_configuration_starts_above_the_floor() -> None:
    assert search(0.7, floor=0.8, expected=0.6) == (0.8, [0.85])
    assert search(0.95, floor=0.8, expected=0.6)[1] == [0.85, 0.9, 1.0, 0.95]


def test_a_floor_at_the_top_costs_nothing() -> None:
    assert search(5.0, floor=GRID[-1]) == (GRID[-1], [])


def test_knees_are_searched_load_by_load_in_turn() -> None:
    limits = {"slow": 0.3, "fast": 1.4, "middling": 0.85}
    tried: list[tuple[str, float]] = []

    def holds_of(name: str) -> Callable[[float], Awaitable[bool]]:
        async def holds(load: float) -> bool:
            tried.append((name, load))
            return load <= limits[name] + 1e-9

        return holds

    found = asyncio.run(raise_knees({name: holds_of(name) for name in limits}))
    assert found == pytest.approx(limits)
    assert tried[:6] == [(name, GUESS) for name in limits] + [
        ("slow", 0.4),
        ("fast", 1.45),
        ("middling", 1.45),
    ]
    for name in limits:
        assert [load for who, load in tried if who == name] == search(limits[name])[1], "as if it were alone"


def test_every_class_has_to_be_in_time() -> None:
    assert is_in_time({"all": 0.5, "a": 0.01, "b": 0.0})
    assert not is_in_time({"all": 0.001, "a": 0.0101, "b": 0.0})
    assert not is_in_time({}), "a run without requests shows nothing"


def test_a_run_with_errors_does_not_pass() -> None:
    assert passes({"errors": 0, "late_share": {"all": 0.0, "a": 0.0}})
    assert not passes({"errors": 1, "late_share": {"all": 0.0, "a": 0.0}})


def test_a_run_that_ended_early_does_not_pass_whatever_its_answers_show() -> None:
    row = {"errors": 0, "late_share": {"all": 0.0, "a": 0.0}}
    assert passes({**row, "settled_by": None})
    assert not passes({**row, "settled_by": "3 late requests of class a"})


def test_a_run_in_time_passes_even_if_the_client_fell_behind() -> None:
    row = {"errors": 0, "late_share": {"all": 0.0, "a": 0.0}}
    assert passes({**row, "valid": True})
    assert passes({**row, "valid": False}), "who falls behind only makes answers later"
    assert not passes({**row, "valid": False, "late_share": {"all": 0.1, "a": 0.1}})
