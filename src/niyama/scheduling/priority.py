"""Hybrid prioritization: between earliest deadline first and shortest work first (paper, eq. P).

    P = due + alpha * (remaining + handicap of a lower importance)

With alpha = 0 this is EDF, optimal while everybody can be in time; a large alpha is SRPF, which
limits the damage when not (`load` says which). The handicap is ours: as load grows the less important
also stand back, or they would take the time that a long important request needs later (L12).
Smaller P is more urgent. Whoever would be late only for alpha keeps its place by deadline.
"""

from __future__ import annotations

from typing import Final

from niyama.qos import Importance
from niyama.scheduling.ledger import Job
from niyama.scheduling.shares import WITHIN

HANDICAP_TOKENS: Final = 100_000
"""A step of importance weighs like this much more work."""


STANDING_TOKENS: Final = 5_000
"""So does, in small, being part of a share that is not enough, and again being beyond it (`shares`)."""


def remaining_work(job: Job) -> int:
    """Tokens that count as the job's remaining work: with a TTLT promise the output counts too."""
    if job.request.slo.ttlt_s is None:
        return job.remaining
    return job.remaining + max(0, job.expected_output - job.num_emitted)


def hybrid_key(job: Job, due_at: float, alpha_s: float) -> tuple[float, float]:
    """Return P and, for ties, the arrival; `alpha_s` in seconds per token."""
    work = remaining_work(job) + HANDICAP_TOKENS * (job.request.importance - Importance.NORMAL)
    work += STANDING_TOKENS * min(2, job.standing // WITHIN)
    return (due_at + alpha_s * work, job.request.arrived_at)
