"""The knee: the highest load at which every class has at most 1 % late requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

MAX_LATE = 0.01
STEP = 0.05
"""Loads are tried on a grid of this width."""
HIGHEST = 2.0

GRID = tuple(round(STEP * number, 3) for number in range(1, round(HIGHEST / STEP) + 1))


def is_in_time(late_share: Mapping[str, float]) -> bool:
    """Whether every class that occurs has at most `MAX_LATE` late requests."""
    return bool(late_share) and all(share <= MAX_LATE for name, share in late_share.items() if name != "all")


def passes(row: Mapping[str, Any]) -> bool:
    """Whether a run that counts kept every class in time."""
    return not row["errors"] and is_in_time(row["late_share"])


async def raise_knee(
    holds: Callable[[float], Awaitable[bool]],
    floor: float = 0.0,
    known: Mapping[float, bool] | None = None,
    guess: float = 0.8,
) -> float:
    """Return the highest load of the grid that holds, or `floor` if none above it does.

    Args:
        holds: Tries a load.
        floor: A load known to hold, by another configuration; 0 if none is. Only what is better
            is of interest, so the next load above it is tried first.
        known: Loads of which it is known whether they hold.
        guess: Where to look first if nothing is known.

    Costs about log2 of the grid's size, one try if the floor cannot be raised.
    """
    known = known or {}
    broken = min([load for load, is_held in known.items() if not is_held], default=float("inf"))
    held = max([floor, *(load for load, is_held in known.items() if is_held and load < broken)])
    low = sum(load <= held + 1e-9 for load in GRID)  # so many loads of the grid are known to hold
    high = sum(load < broken - 1e-9 for load in GRID)  # and so many may
    if floor:
        tried = low + 1
    elif known:
        tried = (low + high + 1) // 2
    else:
        tried = min(high, max(1, round(guess / STEP)))
    while low < high:
        if await holds(GRID[tried - 1]):
            low = tried
        else:
            high = tried - 1
        tried = (low + high + 1) // 2
    return GRID[low - 1] if low else 0.0
