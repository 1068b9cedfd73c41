"""Hybrid prioritization: between earliest deadline first and shortest work first (paper, eq. P).

    P = due + alpha * (remaining + handicap of a lower importance)

With alpha = 0 this is EDF, optimal while everybody can be in time; a large alpha is SRPF, which
limits the damage when not. Alpha follows the measured load, so nobody has to set it. The handicap
is ours: as load grows the less important also stand back, or they would take the time that a long
important request needs later (L12). Smaller P is more urgent.
"""

from __future__ import annotations

import math
from typing import Final

from niyama.qos import Importance
from niyama.scheduling.ledger import Job

LOAD_WINDOW_S: Final = 30.0
"""Time constant of the load average."""

LOAD_KNEE: Final = 0.9
"""Below this load plain EDF keeps every promise."""

LOAD_PER_LEVEL: Final = 0.1
ALPHA_PER_LEVEL: Final = 16.0
"""Alpha per level, in units of the service time of one prefill token: the published 8 ms/token on
a machine that prefills 8500 tokens/s is 68 of them, level 4."""
MAX_LEVEL: Final = 16
HANDICAP_TOKENS: Final = 100_000
"""A step of importance weighs like this much more work."""
HYSTERESIS: Final = 0.25


def remaining_work(job: Job) -> int:
    """Tokens that count as the job's remaining work: with a TTLT promise the output counts too."""
    if job.request.slo.ttlt_s is None:
        return job.remaining
    return job.remaining + max(0, job.expected_output - job.num_emitted)


def hybrid_key(job: Job, due_at: float, alpha_s: float) -> tuple[float, float]:
    """Return P and, for ties, the arrival; `alpha_s` in seconds per token."""
    work = remaining_work(job) + HANDICAP_TOKENS * (job.request.importance - Importance.NORMAL)
    return (due_at + alpha_s * work, job.request.arrived_at)


class Load:
    """Offered work as a share of what the engine can do, and the alpha that follows from it.

    Attributes:
        level: Alpha in steps, 0 to MAX_LEVEL. Steps, because a new alpha orders the backlog anew.
    """

    def __init__(self) -> None:
        self.level = 0
        self._work_s = 0.0
        self._updated_at = -math.inf

    def add(self, work_s: float, now_s: float) -> None:
        """Count a request's work, in seconds of engine time, as it arrives. O(1)."""
        self._work_s = self._decayed(now_s) + work_s
        self._updated_at = max(now_s, self._updated_at)

    def share(self, now_s: float) -> float:
        """Return the load: work that arrived per second, averaged over about LOAD_WINDOW_S."""
        return self._decayed(now_s) / LOAD_WINDOW_S

    def follow(self, now_s: float, margin_s: float = 0.0) -> bool:
        """Move the level to the load; return whether it changed.

        Args:
            now_s: The instant.
            margin_s: How much later everybody could start and still be in time. While that is
                longer than the load is averaged over, nobody is pressed, and EDF is right.
        """
        load = self.share(now_s) if margin_s < LOAD_WINDOW_S else 0.0
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

    def _decayed(self, now_s: float) -> float:
        age_s = now_s - self._updated_at
        return self._work_s if age_s <= 0 else self._work_s * math.exp(-age_s / LOAD_WINDOW_S)
