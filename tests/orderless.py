"""What a test's policy needs that keeps no order of its own."""

from __future__ import annotations

from niyama.scheduling.base import BasePolicy
from niyama.scheduling.ledger import Job


class Orderless(BasePolicy):
    """Takes its prefills from the ledger, so there is nothing to move when one of them does."""

    def _enqueue(self, job: Job, now_s: float) -> None:
        pass

    def _dequeue(self, job: Job) -> None:
        pass

    def _has_backlog(self) -> bool:
        return False
