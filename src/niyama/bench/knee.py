"""The knee: the highest load at which every class has at most 1 % late requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any

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


Holds = Callable[[float], Awaitable[bool]]
"""Tries a load and says whether it holds."""


def position(load: float) -> int:
    """Return how many loads of the grid are at most `load`."""
    return sum(one <= load + 1e-9 for one in GRID)


def search(floor: float = 0.0, expected: float | None = None) -> Generator[float, bool | None, float]:
    """Yield loads to try, be told whether each holds, and return the highest of the grid that does.

    Args:
        floor: A load known to hold, by another configuration; 0 if none is. Only what is better
            is of interest, so the next load above it is tried first; returned if that does not hold.
        expected: Where the knee probably is: tried first, then its neighbours in growing strides.

    Costs about log2 of the grid's size; one try if the floor cannot be raised, two if the knee is
    where it is expected.
    """
    low, high = position(floor), len(GRID)  # so many loads are known to hold, and so many may
    tried = low + 1 if floor else max(1, position(GUESS if expected is None else expected))
    stride = high if expected is None else 1
    while low < high:
        if (yield GRID[tried - 1]):
            low = tried
            tried = min((low + high + 1) // 2, low + stride)
        else:
            high = tried - 1
            tried = max((low + high + 1) // 2, high + 1 - stride)
        stride *= 2
    return GRID[low - 1] if low else 0.0


async def raise_knees(
    holds: Mapping[str, Holds], floor: float = 0.0, expected: Mapping[str, float | None] | None = None
) -> dict[str, float]:
    """Return the highest load that holds for each, or `floor` if none above it does.

    Each has one load tried in turn, so that a machine that becomes slower does so for all of them.

    Args:
        holds: Tries a load, by name.
        floor: See `search`.
        expected: See `search`, by name.
    """
    found: dict[str, float] = {}
    searches = {name: search(floor, (expected or {}).get(name)) for name in holds}
    answers: dict[str, bool | None] = dict.fromkeys(holds)
    while searches:
        for name, one in list(searches.items()):
            try:
                load = one.send(answers[name])
            except StopIteration as done:
                found[name] = float(done.value)
                del searches[name]
            else:
                answers[name] = await holds[name](load)
    return found


async def raise_knee(holds: Holds, floor: float = 0.0, expected: float | None = None) -> float:
    """Return the highest load that holds, or `floor` if none above it does. See `search`."""
    return (await raise_knees({"": holds}, floor, {"": expected}))[""]
