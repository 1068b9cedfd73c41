"""What people use today: a fixed number of tokens per step, prefills in a strict order.

Each step holds every decode and fills up to `chunk` tokens with prefill, in the policy's order
(chunked prefill as in Sarathi-Serve, Agrawal et al., 2024). Nothing is relegated, and no promise
changes the size of a step. A policy whose order can change holds started prefills.
"""

from __future__ import annotations

from collections.abc import Iterator

from niyama.compiled import mypyc_attr
from niyama.scheduling.backlog import Backlog, Key
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.chunking import fill
from niyama.scheduling.deadlines import Anchor
from niyama.scheduling.ledger import Job
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import LatencyModel, Plan

DEFAULT_CHUNK = 256
"""Tokens of one step, decodes included: Sarathi's on a replica that serves interactive requests."""


@mypyc_attr(allow_interpreted_subclasses=True)
class FixedChunkPolicy(BasePolicy):
    """A strict order and a fixed chunk; a subclass says the order by `key`."""

    def __init__(self, model: LatencyModel, anchor: Anchor = "strict", chunk: int | None = None) -> None:
        """Start empty. Raises ValueError unless `chunk` >= 1."""
        super().__init__(model, anchor)
        self.chunk = DEFAULT_CHUNK if chunk is None else chunk
        if self.chunk < 1:
            raise ValueError(f"chunk: {chunk!r} is not allowed; give tokens per step, an integer >= 1")
        self._order = Backlog()

    def key(self, job: Job) -> Key:
        """Return the place in the order, smaller first; ties go to the earlier arrival, then the id."""
        raise NotImplementedError

    def plan(self, now_s: float, limits: Limits) -> Plan:
        """See `Policy.plan`. O(log n) in waiting requests."""
        decodes = self.ledger.decode_shape(limits.tokens_per_decode)
        capped = limits.capped(self.chunk)
        filled = fill(self.in_order(), self._started_in_order, decodes, now_s, None, capped, self.model)
        return self._planned(filled, self.slack_s(now_s), [], [])

    def in_order(self) -> Iterator[Job]:
        """Yield prefills, most urgent first."""
        jobs = self.ledger.jobs
        for request_id in self._order:
            yield jobs[request_id]

    def _started_in_order(self) -> list[Job]:
        return sorted(self.ledger.started.values(), key=lambda job: self._order.item(job.request_id).key)

    def _enqueue(self, job: Job, now_s: float) -> None:
        key = (*self.key(job), job.request.arrived_at)
        self._order.put(job.request_id, key, job.remaining * self.token_s, job.due_at)

    def _dequeue(self, job: Job) -> None:
        self._order.discard(job.request_id)

    def _has_backlog(self) -> bool:
        return len(self._order) > 0


class FcfsPolicy(FixedChunkPolicy):
    """First come, first served."""

    name = "fcfs"

    def key(self, job: Job) -> Key:
        """Arrival alone."""
        return ()


class PriorityPolicy(FixedChunkPolicy):
    """Importance, then vLLM's priority, then arrival."""

    name = "priority"

    def key(self, job: Job) -> Key:
        """Importance and priority."""
        return (job.request.importance, job.request.priority)


class EdfPolicy(FixedChunkPolicy):
    """Earliest deadline first: the instant by which the prefill must be done."""

    name = "edf"

    def key(self, job: Job) -> Key:
        """When the prefill is due."""
        return (job.due_at,)


class SrpfPolicy(FixedChunkPolicy):
    """Shortest remaining prefill first."""

    name = "srpf"

    def key(self, job: Job) -> Key:
        """Tokens still to be computed, cached ones left out."""
        return (job.remaining,)


class SjfPolicy(FixedChunkPolicy):
    """Shortest job first: prefill and expected output."""

    name = "sjf"

    def key(self, job: Job) -> Key:
        """Tokens still to be computed and those still expected to be written."""
        return (job.remaining + max(0, job.expected_output - job.num_emitted),)
