from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyama.bench.knee import GRID, GUESS, STEP, Knee, Try, is_in_time, passes, raise_knees

Tried = list[tuple[int, float]]


def search(limits: Sequence[float], expected: Sequence[float | None] | None = None) -> tuple[Knee, Tried]:
    """Return the knee that is found where each configuration holds up to its limit, and what was tried."""
    tried: Tried = []

    async def holds(one: Try) -> bool:
        tried.append((one.number, one.load))
        return one.load <= limits[one.number] + 1e-9

    expected = [None] * len(limits) if expected is None else expected
    return asyncio.run(raise_knees({"": holds}, {"": expected}))[""], tried


@pytest.mark.parametrize("limit", [0.0, *GRID, 99.0])
def test_the_knee_is_found_wherever_it_is_in_few_tries(limit: float) -> None:
    found, tried = search([limit])
    assert found.load == pytest.approx(min(limit, GRID[-1]))
    assert found.number == (0 if limit else None)
    assert len(tried) == len(set(tried)) <= 7


@pytest.mark.parametrize("limit", [0.3, 0.8, 0.85, 1.4, 9.0])
def test_another_configuration_is_tried_above_the_best_so_far(limit: float) -> None:
    found, tried = search([0.8, limit])
    assert found.load == pytest.approx(max(0.8, min(limit, GRID[-1])))
    assert found.number == int(limit > 0.8)
    loads = [load for number, load in tried if number == 1]
    assert loads[0] == pytest.approx(0.85)
    assert min(loads) > 0.8
    if limit <= 0.8:
        assert len(loads) == 1


@pytest.mark.parametrize("knee", GRID)
def test_a_knee_where_it_is_expected_takes_two_tries(knee: float) -> None:
    found, tried = search([knee], [knee])
    assert found == (knee, 0)
    assert [load for _, load in tried] == [load for load in GRID if load >= knee][:2]


@pytest.mark.parametrize("limit", [0.0, *GRID, 99.0])
@pytest.mark.parametrize("expected", [0.0, 0.3, 0.85, 1.6, GRID[-1]])
def test_a_knee_is_found_wherever_it_was_expected(limit: float, expected: float) -> None:
    found, tried = search([limit], [expected])
    assert found.load == pytest.approx(min(limit, GRID[-1]))
    steps_off = abs(limit - expected) / STEP
    assert len(tried) == len(set(tried)) <= min(10, 4 + steps_off)


def test_a_configuration_that_disappoints_gives_way_to_one_that_may_be_better() -> None:
    found, tried = search([0.2, 0.5, 0.0], [0.6, 0.5, 0.1])
    assert found == (0.5, 1)
    assert tried == [(0, 0.6), (0, 0.55), (1, 0.5), (1, 0.55), (2, 0.55)]


LOADS = st.sampled_from([0.0, *GRID, 9.0])


@given(st.lists(st.tuples(LOADS, LOADS), min_size=1, max_size=5), st.booleans())
def test_the_best_configuration_is_found_whatever_was_expected(
    ways: list[tuple[float, float]], is_expected: bool
) -> None:
    limits = [limit for limit, _ in ways]
    found, tried = search(limits, [one for _, one in ways] if is_expected else None)
    assert found.load == min(max(limits), GRID[-1])
    assert found.number is None if found.load == 0 else limits[found.number or 0] >= found.load
    assert len(tried) == len(set(tried))


def test_knees_are_searched_load_by_load_in_turn() -> None:
    limits = {"slow": 0.3, "fast": 1.4, "middling": 0.85}
    tried: list[tuple[str, float]] = []

    def holds_of(name: str) -> Callable[[Try], Awaitable[bool]]:
        async def holds(one: Try) -> bool:
            tried.append((name, one.load))
            return one.load <= limits[name] + 1e-9

        return holds

    found = asyncio.run(
        raise_knees({name: holds_of(name) for name in limits}, {key: [None] for key in limits})
    )
    assert {name: knee.load for name, knee in found.items()} == pytest.approx(limits)
    assert tried[:6] == [(name, GUESS) for name in limits] + [
        ("slow", 0.4),
        ("fast", 1.45),
        ("middling", 1.45),
    ]
    for name, limit in limits.items():
        alone = [load for _, load in search([limit])[1]]
        assert [load for who, load in tried if who == name] == alone, "as if it were alone"


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
