"""Hybrid prioritization: between earliest deadline first and shortest work first (paper, eq. P).

    P = due + alpha * remaining + handicap of a lower importance

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

STANDING_TOKENS: Final = 5_000
"""Being part of a share that is not enough weighs like so much work, being beyond it like twice that."""


def remaining_work(job: Job) -> int:
    """Tokens that count as the job's remaining work: with a TTLT promise the output counts too."""
    if job.request.slo.ttlt_s is None:
        return job.remaining
    return job.remaining + max(0, job.expected_output - job.num_emitted)


def hybrid_key(job: Job, due_at: float, alpha_s: float, handicap_s: float = 0.0) -> tuple[float, float]:
    """Return P and, for ties, the arrival; alpha is per token, the handicap per step of importance."""
    work = remaining_work(job) + STANDING_TOKENS * min(2, job.standing // WITHIN)
    steps = job.request.importance - Importance.NORMAL
    return (due_at + alpha_s * work + handicap_s * steps, job.request.arrived_at)
