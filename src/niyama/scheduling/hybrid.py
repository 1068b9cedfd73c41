"""Who is served first, and who waits: hybrid prioritization and eager relegation (paper, both sections).

The order of service is by deadline, sliding towards shortest work first as the load grows; if not all
would be in time in that order, somebody is set aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from niyama.compiled import mypyc_attr
from niyama.scheduling.backlog import Backlog, FullKey, Item
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.deadlines import Anchor
from niyama.scheduling.ledger import Job, Offered
from niyama.scheduling.load import Faded, Load
from niyama.scheduling.policy import LatencyModel, Request
from niyama.scheduling.priority import hybrid_key
from niyama.scheduling.relegation import Relegated, find_victim
from niyama.scheduling.shares import BEYOND, NUM_STANDINGS, WITHIN, Shares

DRIFT: Final = 1.2
"""The backlog's work is measured anew when the service time of a token changes by this factor."""

REKEY_EVERY: Final = 4
"""After such a change one request is put in order anew in so many steps, from the most urgent on."""

RELEGATIONS_PER_STEP: Final = 8
"""A bound on a step's work; the first who would be late is dealt with first."""


@mypyc_attr(allow_interpreted_subclasses=True)
class HybridOrder(BasePolicy):
    """A policy with an order of service that follows the load; what a step holds is for subclasses.

    Attributes:
        paced_load: The part of the load that has a TBT, and so mostly goes before the rest.
    """

    def __init__(self, model: LatencyModel, anchor: Anchor = "strict") -> None:
        super().__init__(model, anchor)
        self.load = Load()
        self.paced_load = Faded()
        self.shares = Shares()
        self.backlog = Backlog()
        self.set_aside = Backlog()
        self._restorable = Relegated()
        self._token_s = self.token_s
        self._sweeps: list[tuple[Backlog, FullKey | None]] = []

    @property
    def alpha_s(self) -> float:
        """The weight of remaining work in the order, seconds per token."""
        return self.load.alpha_s(self._token_s)

    @property
    def handicap_s(self) -> float:
        """How far a step of lower importance stands back in the order, seconds."""
        return self.load.handicap_s(self._token_s)

    def arrive(self, request: Request, now_s: float) -> None:
        """See `Policy.arrive`."""
        super().arrive(request, now_s)
        job = self.ledger.jobs[request.request_id]
        job.offered = Offered(job.remaining * self.measured_token_s(), job.remaining * self.token_s, now_s)
        self._offer(job)
        self.shares.arrive(request, job.remaining, now_s)

    def cached(self, request_id: str, num_tokens: int, now_s: float) -> None:
        """See `Policy.cached`; what was offered is less by what need not be computed."""
        job = self.ledger.jobs.get(request_id)
        before = 0 if job is None else job.remaining
        super().cached(request_id, num_tokens, now_s)
        if job is not None and job.remaining < before:
            self._offer(job, -1)
            left, (work_s, pressing_s, at) = job.remaining / before, job.offered
            job.offered = Offered(work_s * left, pressing_s * left, at)
            self._offer(job)

    def _offer(self, job: Job, sign: int = 1) -> None:
        work_s, pressing_s, at = job.offered
        self.load.offer(work_s, pressing_s, int(job.request.importance), at, sign)
        if job.request.slo.tbt_s is not None:
            self.paced_load.add(sign * work_s, at)

    def depart(self, request_id: str, now_s: float, *, finished: bool = True) -> None:
        """See `Policy.depart`."""
        job = self.ledger.jobs.get(request_id)
        super().depart(request_id, now_s, finished=finished)
        if job is not None:
            self.shares.answered(job.request, job.num_emitted, now_s)

    def in_order(self) -> Iterator[Job]:
        """Yield prefills, most urgent first, those set aside last."""
        jobs = self.ledger.jobs
        for request_id in self.backlog:
            yield jobs[request_id]
        for request_id in self.set_aside:
            yield jobs[request_id]

    def started_in_order(self) -> list[Job]:
        """Return the prefills that have begun, in the same order. O(s log s) for s of them."""
        orders = (self.backlog, self.set_aside)
        return sorted(
            self.ledger.started.values(),
            key=lambda job: (job.relegated, orders[job.relegated].item(job.request_id).key),
        )

    def _follow_load(self, now_s: float) -> None:
        """Let alpha, the shares and the measured service time act on the order, one request at a time."""
        token_s = self.token_s
        has_drifted = not self._token_s / DRIFT < token_s < self._token_s * DRIFT
        if has_drifted:
            self._token_s = token_s
        is_new_order = self.load.follow(now_s, self.backlog.margin - now_s) or has_drifted
        if (self.shares.follow(now_s) and not self._sweeps) or is_new_order:
            self._sweeps = [(order, None) for order in (self.set_aside, self.backlog)]
        if self._sweeps and self.ledger.num_launches % REKEY_EVERY == 0:
            order, last = self._sweeps.pop()
            item = order.after(last)
            if item is not None:
                self._sweeps.append((order, item.key))
                self._enqueue(self.ledger.jobs[item.request_id], now_s)

    def _relegate(self, now_s: float, stall_s: float) -> list[str]:
        """Set requests aside until all others would be in time, or enough for one step.

        With time for all, nobody is set aside for a stall that has not come. But if somebody must be, enough
        that one breaks no other promise.
        """
        relegated: list[str] = []
        stalled_at = now_s + stall_s
        if self.backlog.margin >= (stalled_at if self.load.is_beyond else now_s):
            return relegated
        for _ in range(RELEGATIONS_PER_STEP):
            late = self.backlog.first_late(stalled_at)
            if late is None:
                break
            if self._promote(late, stalled_at):
                continue
            item = find_victim(self.backlog, late, stalled_at)
            job = self.ledger.jobs[item.request_id]
            self.backlog.discard(item.request_id)
            job.relegated, job.promoted = True, False
            self.shares.set_aside(job.request, job.remaining, job.offered.at)
            self._enqueue(job, now_s)
            self._restorable.add(item)
            relegated.append(item.request_id)
        return relegated

    def _promote(self, late: Item, now_s: float) -> bool:
        """Serve a request by its deadline if alpha alone makes it late; return whether that helps.

        Nobody else may be late for it, and there must be time for requests of its size.
        """
        job = self.ledger.jobs[late.request_id]
        if job.promoted or not self.load.is_beyond or not self._has_time_for(job, now_s):
            return False
        self.backlog.discard(late.request_id)
        key = hybrid_key(job, job.due_at, 0.0)
        job.promoted = self.backlog.fits(late.request_id, key, late.work_s, late.due_at, now_s)
        if job.promoted:
            self._enqueue(job, now_s)
        else:
            self.backlog.put(late.request_id, late.key[0], late.work_s, late.due_at, late.rank)
        return job.promoted

    def _has_time_for(self, job: Job, now_s: float) -> bool:
        """Whether there is time for all requests of this size: those of its tenant, if several share."""
        if self.shares.is_shared(int(job.request.importance)):
            return job.standing < BEYOND
        work_s = job.remaining * self.measured_token_s()
        return work_s <= self.load.worth_s(int(job.request.importance), now_s)

    def _restore(self, now_s: float) -> list[str]:
        """Take back requests that would be in time together with all others."""
        restored: list[str] = []
        for item in self._restorable.take_fitting(self.backlog, now_s):
            job = self.ledger.jobs[item.request_id]
            self.set_aside.discard(item.request_id)
            job.relegated = False
            self.shares.set_aside(job.request, -job.remaining, job.offered.at)
            self._enqueue(job, now_s)
            restored.append(item.request_id)
        return restored

    def _enqueue(self, job: Job, now_s: float) -> None:
        work_s = job.remaining * self._token_s
        job.standing = self.shares.standing(job.request, job.remaining)
        weights = (0.0, 0.0) if job.promoted else (self.alpha_s, self.handicap_s)
        key = hybrid_key(job, job.due_at, *weights)
        rank = (NUM_STANDINGS * int(job.request.importance) + job.standing, job.request.priority)
        if job.relegated:
            self.set_aside.put(job.request_id, (float(rank[0] // WITHIN), key[0]), work_s, job.due_at, rank)
            self._restorable.update(Item(job.request_id, key, work_s, job.due_at, rank))
        else:
            self.backlog.put(job.request_id, key, work_s, job.due_at, rank)

    def _dequeue(self, job: Job) -> None:
        self.backlog.discard(job.request_id)
        self.set_aside.discard(job.request_id)
        self._restorable.discard(job.request_id)
        job.relegated = job.promoted = False

    def _has_backlog(self) -> bool:
        return bool(len(self.backlog) or len(self.set_aside))
