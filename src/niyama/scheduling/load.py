"""How much work arrives, in what sizes, and what follows: alpha, and whom there is no time for.

With more work than time somebody must be late, and the fewest are if it is the largest requests: those
above a size such that all smaller ones together fill the engine. Up to that much load deadlines alone are
the best order; beyond it, alpha slides the order towards the short (paper, "Hybrid prioritization").
Both follow the measured load, so nobody has to set them.
"""

from __future__ import annotations

import math
from typing import Final

LOAD_WINDOW_S: Final = 120.0
"""Time constant of the load average. Shorter ones take a burst for an overload."""

SHORTEST_S: Final = 30.0
"""A younger average counts as this old."""

PRESSED_S: Final = 30.0
"""While everybody could start this much later and still be in time, nobody is pressed."""

LOAD_KNEE: Final = 1.0
"""Up to this load alpha stays zero."""

LOAD_PER_LEVEL: Final = 0.1
ALPHA_PER_LEVEL: Final = 16.0
"""Alpha per level, in units of the service time of one prefill token: the published 8 ms/token on
a machine that prefills 8500 tokens/s is 68 of them, level 4."""
MAX_LEVEL: Final = 16
HYSTERESIS: Final = 0.25

SIZES_PER_OCTAVE: Final = 4
SMALLEST_S: Final = 1e-6
MAX_GROWTH: Final = 30.0
"""Weights grow with time instead of all others shrinking, until they are e to this."""


class Load:
    """Offered work as a share of what the engine can do, by size.

    Attributes:
        level: Alpha in steps, 0 to MAX_LEVEL. Steps, because a new alpha orders the backlog anew.
    """

    def __init__(self) -> None:
        self.level = 0
        self._work_s: dict[int, float] = {}  # by size class, as of _since
        self._total_s = 0.0
        self._first_at = math.inf
        self._since = 0.0

    def add(self, work_s: float, now_s: float) -> None:
        """Count a request's work, in seconds of engine time, as it arrives. O(1) on average."""
        if self._first_at == math.inf:
            self._first_at = self._since = now_s
        growth = (now_s - self._since) / LOAD_WINDOW_S
        if growth > MAX_GROWTH:
            self._rebase(now_s)
            growth = 0.0
        weighted_s = work_s * math.exp(growth)
        size = math.floor(math.log2(max(work_s, SMALLEST_S)) * SIZES_PER_OCTAVE)
        self._work_s[size] = self._work_s.get(size, 0.0) + weighted_s
        self._total_s += weighted_s

    def share(self, now_s: float) -> float:
        """Return the load: work that arrived per second, averaged over about LOAD_WINDOW_S. O(1)."""
        return self._total_s * self._per_second(now_s)

    def worth_s(self, now_s: float) -> float:
        """Return the size up to which there is time for everybody; infinite while there is for all.

        Returns:
            Seconds of work of one request; exact to a step of a size class. O(size classes).
        """
        if self.share(now_s) <= 1.0:
            return math.inf
        per_second, load = self._per_second(now_s), 0.0
        for size in sorted(self._work_s):
            load += self._work_s[size] * per_second
            if load > 1.0:
                return float(2.0 ** (size / SIZES_PER_OCTAVE))
        return math.inf

    def follow(self, now_s: float, margin_s: float = 0.0) -> bool:
        """Move the level to the load; return whether it changed.

        Args:
            now_s: The instant.
            margin_s: How much later everybody could start and still be in time.
        """
        load = self.share(now_s) if margin_s < PRESSED_S else 0.0
        wanted = (load - LOAD_KNEE) / LOAD_PER_LEVEL
        if self.level - 1 - HYSTERESIS < wanted <= self.level + HYSTERESIS:
            return False
        level = min(MAX_LEVEL, max(0, math.ceil(wanted)))
        changed = level != self.level
        self.level = level
        return changed

    def alpha_s(self, token_s: float) -> float:
        """Return alpha in seconds per token, where a prefill token takes `token_s` of engine time."""
        return self.level * ALPHA_PER_LEVEL * token_s

    def _per_second(self, now_s: float) -> float:
        """Return what turns a sum of weights into a share now."""
        if self._first_at == math.inf:
            return 0.0
        age_s = min(LOAD_WINDOW_S, max(SHORTEST_S, now_s - self._first_at))
        return math.exp(-max(0.0, now_s - self._since) / LOAD_WINDOW_S) / age_s

    def _rebase(self, now_s: float) -> None:
        """Let the weights start from one again; what has faded is forgotten."""
        fade = math.exp(-(now_s - self._since) / LOAD_WINDOW_S)
        self._work_s = {
            size: work_s * fade for size, work_s in self._work_s.items() if work_s * fade > SMALLEST_S
        }
        self._total_s = math.fsum(self._work_s.values())
        self._since = now_s
