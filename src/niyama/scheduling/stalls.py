"""How much later than predicted anything may come, as far as the engine has shown."""

from __future__ import annotations

from typing import Final

STALL_STEPS: Final = 2.0
STALL_OVERRUNS: Final = 2.0
"""A stall lasts so many times the worst that a step lately took beyond prediction and margin, at most so
many average steps. More than once: tokens have a way to go yet."""

OVERRUN_MEMORY_S: Final = 60.0
FIRST_OVERRUN_S: Final = 0.025
"""How long the worst step counts, fading, and what is assumed of an engine that has shown nothing."""


class Stalls:
    """The worst that a step lately took beyond what it should."""

    def __init__(self) -> None:
        self._overrun_s = FIRST_OVERRUN_S

    def observe(self, duration_s: float, latest_s: float) -> None:
        """Take in a step's duration, and the longest that it should have taken, seconds. O(1)."""
        self._overrun_s *= 1.0 - min(1.0, duration_s / OVERRUN_MEMORY_S)
        self._overrun_s = max(self._overrun_s, duration_s - latest_s)

    def stall_s(self, step_s: float) -> float:
        """Return how much later anything may come, seconds; `step_s` is the average time of a step."""
        return min(STALL_STEPS * step_s, STALL_OVERRUNS * self._overrun_s)
