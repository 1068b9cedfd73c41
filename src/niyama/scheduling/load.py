"""How much work arrives, in what sizes, and what follows: alpha, and whom there is no time for.

With more work than time somebody must be late, and the fewest are if it is the largest requests: those
above a size such that all smaller ones together fill the engine. Up to that much load deadlines alone are
the best order; beyond it, alpha slides the order towards the short (paper, "Hybrid prioritization").
With less work than time, steps are as short as the engine can afford, so that whoever comes finds it free.
All follow the measured load, so nobody has to set them.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Final

LOAD_WINDOW_S: Final = 120.0
"""Time constant of the load average. Shorter ones take a burst for an overload."""

SHORTEST_S: Final = 30.0
"""An average of fewer seconds counts as of so many."""

PRESSED_S: Final = 30.0
"""While everybody could start this much later and still be in time, nobody is pressed."""

ALPHA_KNEE: Final = 1.05
"""Up to this load alpha stays zero: an average just above one is more often a burst than an overload."""

IMPORTANCE_KNEE: Final = 1.0
"""Up to this load the less important do not stand back."""

LOAD_PER_LEVEL: Final = 0.1
ALPHA_PER_LEVEL: Final = 16.0
"""Alpha per level, in units of the service time of one prefill token: the published 8 ms/token on
a machine that prefills 8500 tokens/s is 68 of them, level 4."""
MAX_LEVEL: Final = 16

CALM_STEPS: Final = 5.0
"""An idle engine's steps last at most so many steps without prefill: a fifth of its time goes into launching
them. One that is asked for more can afford that less, and its steps are as much longer."""

HANDICAP_TOKENS: Final = 100_000
"""A step of importance weighs like this much more work."""

HYSTERESIS: Final = 0.25

SIZES_PER_OCTAVE: Final = 4
SMALLEST_S: Final = 1e-6
MAX_GROWTH: Final = 30.0
"""Weights grow with time instead of all others shrinking, until they are e to this."""


def size_class(work_s: float) -> int:
    """Return the class that a request's size, seconds of work, falls into."""
    return math.floor(math.log2(max(work_s, SMALLEST_S)) * SIZES_PER_OCTAVE)


class Faded:
    """A sum that fades: what was added per second, averaged over about a time constant.

    Args:
        window_s: The time constant, seconds.
    """

    def __init__(self, window_s: float = LOAD_WINDOW_S) -> None:
        self._window_s = window_s
        self._total = 0.0  # as of _since
        self._first_at = math.inf
        self._since = 0.0

    def add(self, amount: float, now_s: float) -> None:
        """Count an amount now. O(1) on average."""
        weight = self._weight(now_s)
        self._total += amount * weight

    def share(self, now_s: float) -> float:
        """Return the average per second; of seconds of work it is the share of an engine. O(1)."""
        return max(0.0, self._total) * self._per_second(now_s)

    def _weight(self, now_s: float) -> float:
        """Return what something now weighs: weights grow instead of all others shrinking."""
        if self._first_at == math.inf:
            self._first_at = self._since = now_s
        growth = (now_s - self._since) / self._window_s
        if growth > MAX_GROWTH:
            self._fade(math.exp(-growth))
            self._since = now_s
            growth = 0.0
        return math.exp(growth)

    def _fade(self, fade: float) -> None:
        """Scale everything, so that the weights start from one again."""
        self._total *= fade

    def _per_second(self, now_s: float) -> float:
        """Return what turns a sum of weights into a share now."""
        if self._first_at == math.inf:
            return 0.0
        # What came at an even rate since the first has faded to so many seconds' worth.
        seconds = -self._window_s * math.expm1(-max(0.0, now_s - self._first_at) / self._window_s)
        return math.exp(-max(0.0, now_s - self._since) / self._window_s) / max(SHORTEST_S, seconds)


class Work(Faded):
    """Offered work as a share of what the engine can do, by size."""

    def __init__(self, window_s: float = LOAD_WINDOW_S) -> None:
        super().__init__(window_s)
        self._by_size: dict[int, float] = {}

    def add(self, amount: float, now_s: float, sign: int = 1) -> None:
        """Count a request's work, in seconds of engine time, as it arrives. O(1) on average."""
        weighted_s = sign * amount * self._weight(now_s)
        size = size_class(amount)
        self._by_size[size] = self._by_size.get(size, 0.0) + weighted_s
        self._total += weighted_s

    def upto(self, now_s: float) -> tuple[list[int], list[float]]:
        """Return the size classes, and the share of each together with all smaller ones. O(size classes)."""
        sizes = sorted(self._by_size)
        per_second = self._per_second(now_s)
        return sizes, list(accumulate([max(0.0, self._by_size[size]) * per_second for size in sizes]))

    def _fade(self, fade: float) -> None:
        """See `Faded`; what has faded is forgotten."""
        self._by_size = {
            size: work_s * fade for size, work_s in self._by_size.items() if work_s * fade > SMALLEST_S
        }
        self._total = math.fsum(self._by_size.values())


class Steps:
    """A load above a knee in steps, which noise does not change. A new step orders the backlog anew."""

    __slots__ = ("_knee", "now")

    def __init__(self, knee: float) -> None:
        self._knee = knee
        self.now = 0

    def follow(self, load: float) -> bool:
        """Move to a load; return whether the step changed."""
        wanted = (load - self._knee) / LOAD_PER_LEVEL
        if self.now - 1 - HYSTERESIS < wanted <= self.now + HYSTERESIS:
            return False
        level = min(MAX_LEVEL, max(0, math.ceil(wanted)))
        changed = level != self.now
        self.now = level
        return changed


class Load(Faded):
    """The work that is offered to the engine, and what follows from it: alpha, and who stands back.

    Its sum is all work. What the urgent take of the engine is less while decodes sit out for them, and
    as long as that fits there is no need to serve the short before the long. It is no more time in all:
    what sits out is done later, so the less important stand back as soon as all work does not fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pressing = Faded()
        self._alpha = Steps(ALPHA_KNEE)
        self._standing_back = Steps(IMPORTANCE_KNEE)
        self._by_importance: dict[int, Work] = {}

    @property
    def level(self) -> int:
        """Alpha in steps, 0 to MAX_LEVEL."""
        return self._alpha.now

    @property
    def is_beyond(self) -> bool:
        """Whether size or importance counts in the order, besides deadlines."""
        return self._alpha.now > 0 or self._standing_back.now > 0

    def offer(self, work_s: float, pressing_s: float, importance: int, now_s: float, sign: int = 1) -> None:
        """Count a request's work as it arrives. O(1) on average.

        Args:
            work_s: Engine time that it takes, decodes that run along included.
            pressing_s: The same if those sit out who can.
            importance: Of the request.
            now_s: The instant, or an earlier one that it is to count from.
            sign: -1 takes back what was counted from that instant.
        """
        self.add(sign * work_s, now_s)
        self._pressing.add(sign * pressing_s, now_s)
        self._by_importance.setdefault(importance, Work()).add(work_s, now_s, sign)

    def worth_s(self, importance: int, now_s: float) -> float:
        """Return the size up to which there is time for everybody of an importance; infinite if for all.

        The more important come first, whatever their size.

        Returns:
            Seconds of work of one request; exact to a step of a size class. O(size classes).
        """
        works = self._by_importance
        before = sum([work.share(now_s) for rank, work in works.items() if rank < importance])
        if importance in works:
            for size, load in zip(*works[importance].upto(now_s), strict=True):
                if before + load > 1.0:
                    return float(2.0 ** (size / SIZES_PER_OCTAVE))
        return math.inf

    def calm_step_s(self, now_s: float, waiting_s: float, decode_step_s: float) -> float:
        """Return how long a step is at most while nobody is pressed, seconds; infinite for a busy engine.

        A longer one would only save launches, and whoever comes meanwhile waits for its end.

        Args:
            now_s: The instant.
            waiting_s: Work that waits; it is wanted within the time that the load is averaged over.
            decode_step_s: Time of a step without prefill.
        """
        free = 1.0 - self.share(now_s) - waiting_s / LOAD_WINDOW_S
        return CALM_STEPS * decode_step_s / free if free > 0 else math.inf

    def follow(self, now_s: float, margin_s: float = 0.0) -> bool:
        """Move to the load; return whether the order of service changes.

        Args:
            now_s: The instant.
            margin_s: How much later everybody could start and still be in time.
        """
        is_pressed = margin_s < PRESSED_S
        changed = self._alpha.follow(self._pressing.share(now_s) if is_pressed else 0.0)
        if len(self._by_importance) < 2:
            return changed
        return self._standing_back.follow(self.share(now_s) if is_pressed else 0.0) or changed

    def alpha_s(self, token_s: float) -> float:
        """Return alpha in seconds per token, where a prefill token takes `token_s` of engine time."""
        return self._alpha.now * ALPHA_PER_LEVEL * token_s

    def handicap_s(self, token_s: float) -> float:
        """Return how far a step of importance stands back, seconds."""
        return self._standing_back.now * ALPHA_PER_LEVEL * HANDICAP_TOKENS * token_s
