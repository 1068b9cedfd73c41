"""The knee: the highest load at which every class has at most 1 % late requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_LATE = 0.01
STEP = 0.05
"""Loads are tried on a grid of this width."""
HIGHEST = 2.0
GUESS = 0.85
"""Tried first where nothing is known; a load that `steady` runs as well."""

GRID = tuple(round(STEP * number, 3) for number in range(1, round(HIGHEST / STEP) + 1))


def is_in_time(late_share: Mapping[str, float]) -> bool:
    """Whether every class that occurs has at most `MAX_LATE` late requests."""
    return bool(late_share) and all(share <= MAX_LATE for name, share in late_share.items() if name != "all")


def passes(row: Mapping[str, Any]) -> bool:
    """Whether a run kept every class in time.

    One that ended early did not: those who had waited too long have no answer that could be judged.
    Nor does it ask whether the client fell behind: that makes answers later, and a search has to go
    somewhere. A knee by an INVALID run is INVALID itself.
    """
    return not row["errors"] and not row.get("settled_by") and is_in_time(row["late_share"])


class Try(NamedTuple):
    """A load, and the number of the configuration that is to keep it."""

    number: int
    load: float


class Knee(NamedTuple):
    """The highest load that holds, 0 if none does, and the number of the configuration that keeps it."""

    load: float
    number: int | None


Holds = Callable[[Try], Awaitable[bool]]
"""Says whether a load holds."""


@dataclass(slots=True)
class _Way:
    """What is known of a configuration, in places of the grid from 1.

    Attributes:
        guess: What to try next.
        stride: How far from one try the next one is at most, as long as the knee is beyond all tries.
        high: The highest that may hold.
    """

    number: int
    guess: int
    stride: int
    high: int = len(GRID)


def search(expected: Sequence[float | None]) -> Generator[Try, bool | None, Knee]:
    """Yield what to try, be told whether it holds, and return the knee of the best of some configurations.

    Args:
        expected: Where the knee of each probably is. None if nothing is known of any: then the first
            one is the likeliest.

    A try above the best knee so far decides about a configuration, so only the best one costs more: one
    that holds and one that does not if it is where it was expected, else about log2 of the grid's size.
    """
    ways = [_way(number, one) for number, one in enumerate(expected)]
    best, winner = 0, None
    while still := [way for way in ways if way.high > best]:
        # Of equals the one with fewer tries, that is with a shorter stride.
        way = max(still, key=lambda one: (one.guess, -one.stride))
        place = min(way.high, max(best + 1, way.guess))
        if (yield Try(way.number, GRID[place - 1])):
            best, winner = place, way.number
            way.guess = min((best + way.high + 1) // 2, best + way.stride)
        else:
            way.high = place - 1
            way.guess = max((best + way.high + 1) // 2, place - way.stride)
        way.stride *= 2
    return Knee(GRID[best - 1] if best else 0.0, winner)


def _way(number: int, expected: float | None) -> _Way:
    if expected is not None:
        return _Way(number, sum(load <= expected + 1e-9 for load in GRID), 1)
    if number == 0:
        return _Way(number, round(GUESS / STEP), len(GRID))
    return _Way(number, 0, 1)


async def raise_knees(
    holds: Mapping[str, Holds], expected: Mapping[str, Sequence[float | None]]
) -> dict[str, Knee]:
    """Return the knee of each contestant.

    Each has one load tried in turn, so that a machine that becomes slower does so for all of them.

    Args:
        holds: Tries a load, by contestant.
        expected: See `search`.
    """
    found: dict[str, Knee] = {}
    searches = {name: search(expected[name]) for name in holds}
    answers: dict[str, bool | None] = dict.fromkeys(holds)
    while searches:
        for name, one in list(searches.items()):
            try:
                tried = one.send(answers[name])
            except StopIteration as done:
                found[name] = done.value
                del searches[name]
            else:
                answers[name] = await holds[name](tried)
    return found
