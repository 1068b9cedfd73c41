"""What a replica tells a router of itself, and what follows for a request that might be sent there."""

from __future__ import annotations

import math
from typing import NamedTuple

from niyama.scheduling.backlog import Backlog, FullKey
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.baselines import FixedChunkPolicy
from niyama.scheduling.deadlines import prefill_due_at
from niyama.scheduling.ledger import Job
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.outline import Outline
from niyama.scheduling.paper import PaperPolicy
from niyama.scheduling.policy import Request
from niyama.scheduling.priority import hybrid_key

HEADROOM = 0.5
"""Of the time that a request can wait this share is kept free: the work ahead is an estimate, and the
service time of a token moves with the decodes that run along."""

TAKEN_SHARE = 0.2
"""Who comes takes at most this share of the time that those behind can wait: it is not the last to come,
and once they cannot wait any longer the replica has to set somebody aside."""

PACE_SHARE = 0.75
"""A step without prefill may take this share of a TBT: the contexts of those that decode grow."""

HURRIED_STEPS = 8.0
"""An answer that needs its tokens less often than every so many steps without prefill makes no step dear."""

MOST_PACED = 0.95
"""Work with a TBT takes at most this share of a replica's time, whatever was offered."""


class Turn(NamedTuple):
    """Where a request would stand in a policy's order."""

    key: FullKey
    work_s: float
    due_at: float


class Report:
    """What a replica tells a router at one instant, and what the router has sent it since.

    The backlog is told as an `Outline`. What moves slowly (expected output lengths, the service time
    of a token, alpha) is read from the policy when asked for; over a network it would be reported, too.

    Attributes:
        taken_at: When it was reported.
        work_s: Engine time of all work that is in, seconds: prefills that wait, set-aside ones too, and
            what the running decodes cost until they end, each taken to be half-way through the
            answer that is expected of anybody.
        tightest_tbt_s: See `routing.Estimate`.
    """

    __slots__ = (
        "_free_at",
        "_is_behind",
        "_num_free_kv_tokens",
        "_num_free_seqs",
        "_outline",
        "_paced_share",
        "_policy",
        "_sent",
        "_shape",
        "taken_at",
        "tightest_tbt_s",
        "work_s",
    )

    def __init__(
        self,
        policy: BasePolicy,
        taken_at: float,
        free_at: float,
        num_free_seqs: int,
        num_free_kv_tokens: int,
    ) -> None:
        """Report on a policy. O(log n) in waiting requests, times the marks of an `Outline`.

        Args:
            policy: The replica's.
            taken_at: Now.
            free_at: End of the step in flight.
            num_free_seqs: How many more requests may run.
            num_free_kv_tokens: KV cache that nobody holds, tokens.
        """
        self._policy = policy
        self.taken_at = taken_at
        self._free_at = free_at
        self._num_free_seqs = num_free_seqs
        self._num_free_kv_tokens = num_free_kv_tokens
        self._outline = Outline(order_of(policy))
        self._shape = policy.ledger.decode_shape()
        self._is_behind = policy.slack_s(max(taken_at, free_at)) < 0
        self._sent: list[Turn] = []
        self._paced_share = 0.0
        self.tightest_tbt_s = min(policy.paces, default=math.inf)
        self.work_s = self._outline.total_s
        if isinstance(policy, NiyamaPolicy):
            self.work_s += policy.set_aside.total_s
            self._paced_share = min(MOST_PACED, policy.paced_load.share(taken_at))
        if self._shape.num_decode_tokens:
            num_steps = policy.lengths.expect("", "", self._shape.decode_context + 1) / 2
            self.work_s += num_steps * policy.model.predict_s(self._shape)

    @property
    def drain_s(self) -> float:
        """See `routing.Estimate`."""
        return self.work_s / (1.0 - self._paced_share)

    def keeps(self, request: Request, now_s: float) -> bool:
        """Whether its prefill is in time and delays nobody's too far, and its pace is kept.

        A pace also needs a seat and memory when its turn comes, and that no decode is behind already;
        without one the request can wait for both. O(log marks), and what was sent since.
        """
        turn = turn_of(self._policy, request)
        place = self._outline.place(turn.key)
        sent_s = sum([other.work_s for other in self._sent])
        before_s = place.before_s + sum([other.work_s for other in self._sent if other.key < turn.key])
        if request.slo.tbt_s is not None:
            ahead = before_s / turn.work_s * request.num_prompt_tokens if turn.work_s else 0.0
            if self._num_free_seqs < 1 or self._is_behind or not self.keeps_pace(request):
                return False
            if self._num_kv_tokens(request) + ahead > self._num_free_kv_tokens:
                return False
        start_at = max(now_s, self._free_at)
        kept_s = HEADROOM * max(0.0, turn.due_at - turn.work_s - start_at)
        if start_at + kept_s + before_s + turn.work_s > turn.due_at:
            return False
        return sent_s + turn.work_s <= TAKEN_SHARE * (place.latest_at - start_at)

    def done_at(self, request: Request, now_s: float) -> float:
        """See `routing.Estimate`."""
        turn = turn_of(self._policy, request)
        sent_s = sum([other.work_s for other in self._sent if other.key < turn.key])
        return max(now_s, self._free_at) + self._outline.place(turn.key).before_s + sent_s + turn.work_s

    def keeps_pace(self, request: Request) -> bool:
        """See `routing.Estimate`; counts the request among those that decode."""
        if request.slo.tbt_s is None:
            return True
        more = self._shape._replace(
            num_decode_tokens=self._shape.num_decode_tokens + 1,
            decode_context=self._shape.decode_context + self._num_kv_tokens(request),
        )
        return self._policy.model.predict_s(more) <= PACE_SHARE * request.slo.tbt_s

    def is_hurried_for(self, request: Request) -> bool:
        """See `routing.Estimate`; goes by the answer that is expected, as if it took the whole TTLT."""
        ttlt_s = request.slo.ttlt_s
        if ttlt_s is None:
            return False
        pace_s = ttlt_s / _expected_output(self._policy, request)
        is_short = pace_s < HURRIED_STEPS * self._policy.model.predict_s(self._shape)
        return is_short and self.tightest_tbt_s <= pace_s

    def sent(self, request: Request) -> None:
        """Count a request that was sent here after the report."""
        turn = turn_of(self._policy, request)
        self._sent.append(turn)
        self.work_s += turn.work_s
        self._num_free_seqs -= 1
        if request.slo.tbt_s is not None:
            self.tightest_tbt_s = min(self.tightest_tbt_s, request.slo.tbt_s)

    def _num_kv_tokens(self, request: Request) -> int:
        return request.num_prompt_tokens + _expected_output(self._policy, request)


def order_of(policy: BasePolicy) -> Backlog:
    """Return the prefills that wait, in the order of service. Raises TypeError if it has none."""
    if isinstance(policy, NiyamaPolicy):
        return policy.backlog
    if isinstance(policy, (FixedChunkPolicy, PaperPolicy)):
        return policy._order
    raise TypeError(f"policy: {policy.name!r} has no order of service that could be asked")


def turn_of(policy: BasePolicy, request: Request) -> Turn:
    """Return where a request would stand if it arrived now; nothing is changed."""
    expected = _expected_output(policy, request)
    job = Job(request, expected)
    if isinstance(policy, PaperPolicy):
        job.due_at = policy._deadline_at(request)
        key = (False, job.due_at + policy.alpha_s * job.remaining, request.arrived_at)
        return Turn((key, request.request_id), job.remaining / policy.prefill_rate, job.due_at)
    job.due_at = prefill_due_at(request, expected, policy.decode_step_s(request, expected))
    work_s = job.remaining * policy.token_s
    if isinstance(policy, FixedChunkPolicy):
        return Turn(((*policy.key(job), request.arrived_at), request.request_id), work_s, job.due_at)
    assert isinstance(policy, NiyamaPolicy)
    return Turn(
        (hybrid_key(job, job.due_at, policy.alpha_s, policy.handicap_s), request.request_id),
        work_s,
        job.due_at,
    )


def _expected_output(policy: BasePolicy, request: Request) -> int:
    return policy.lengths.expect(
        request.qos_class, request.tenant, request.max_tokens, hint=request.expected_output_tokens
    )
