"""An emulated device: runs one step after the other, each as long as asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SPIN_S = 0.0002
"""The last part of a wait is spent looking at the clock: a sleep ends about 0.1 ms late."""


@dataclass(frozen=True, slots=True)
class Run:
    """When a step runs on the device, seconds of the monotonic clock."""

    starts_at: float
    ends_at: float


class Device:
    """Takes steps in order; a step starts when it is launched, or when the one before it ends.

    Deadlines are absolute. So a host that wakes up late from one step shortens its own time, not the
    device's, as long as it launches the next step before the device is idle.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._free_at = float("-inf")

    def launch(self, duration_s: float) -> Run:
        """Start a step; returns at once."""
        starts_at = max(self._clock(), self._free_at)
        self._free_at = starts_at + duration_s
        return Run(starts_at, self._free_at)

    def wait(self, run: Run) -> float:
        """Return once the step has ended, and when that was noticed."""
        while (left_s := run.ends_at - self._clock()) > 0:
            # Sleeping for no time lets the threads that talk to the clients run.
            self._sleep(max(0.0, left_s - SPIN_S))
        return self._clock()
