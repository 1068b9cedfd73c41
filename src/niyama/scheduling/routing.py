"""Which replica of a fleet gets a request: the most loaded one that still keeps the promise.

Packing leaves the other replicas free for bursts, and for promises that only an idle engine keeps.
Where no replica keeps the promise, the least loaded one comes closest. A router needs two facts of
each replica, `Estimate`, whether it shares a process with the policies, as here and in the simulator,
or hears of them over the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from niyama.scheduling.backlog import Backlog, Key
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.baselines import FixedChunkPolicy
from niyama.scheduling.deadlines import prefill_due_at
from niyama.scheduling.ledger import Job
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.paper import PaperPolicy
from niyama.scheduling.policy import Request
from niyama.scheduling.priority import hybrid_key

HEADROOM = 0.3
"""Of the time until a request is due this share is kept free: the work ahead is an estimate, and the
service time of a token moves with the decodes that run along."""


class Estimate(Protocol):
    """What a router asks a replica."""

    @property
    def work_s(self) -> float:
        """Engine time of all work that is in, seconds."""
        ...

    def keeps(self, request: Request, now_s: float) -> bool:
        """Whether the request, and everybody behind it, would still be in time here."""
        ...


def slack_aware(request: Request, now_s: float, replicas: Sequence[Estimate]) -> int:
    """Return the index of the most loaded replica that keeps the promise, or of the least loaded.

    Equal loads go to the first. O(n log n) for n replicas, and a question to each that is asked.
    """
    loads = [replica.work_s for replica in replicas]
    for index in sorted(range(len(loads)), key=lambda index: -loads[index]):
        if replicas[index].keeps(request, now_s):
            return index
    return loads.index(min(loads))


def least_work(replicas: Sequence[Estimate]) -> int:
    """Return the index of the replica with the least work, the first of them. O(n)."""
    loads = [replica.work_s for replica in replicas]
    return loads.index(min(loads))


class Turn(NamedTuple):
    """Where a request would stand in a policy's order."""

    key: Key
    work_s: float
    due_at: float


class PolicyEstimate:
    """Reads a policy in the same process. Each question costs O(log n) in waiting requests.

    Attributes:
        policy: The replica's.
        free_at: End of the step in flight.
        num_free_seqs: How many more requests may start once all that wait have.
        num_free_kv_tokens: KV cache that nobody holds or waits for, tokens; may be negative.
    """

    __slots__ = ("free_at", "num_free_kv_tokens", "num_free_seqs", "policy")

    def __init__(
        self, policy: BasePolicy, free_at: float, num_free_seqs: int, num_free_kv_tokens: int
    ) -> None:
        self.policy = policy
        self.free_at = free_at
        self.num_free_seqs = num_free_seqs
        self.num_free_kv_tokens = num_free_kv_tokens

    @property
    def work_s(self) -> float:
        """Prefills that wait, set-aside ones too, and what the running decodes cost until they end.

        A decode is taken to be half-way through the answer that is expected of anybody.
        """
        policy = self.policy
        work_s = _backlog(policy).total_s
        if isinstance(policy, NiyamaPolicy):
            work_s += policy.set_aside.total_s
        shape = policy.ledger.decode_shape()
        if shape.num_decode_tokens:
            num_steps = policy.lengths.expect("", "", shape.decode_context + 1) / 2
            work_s += num_steps * policy.model.predict_s(shape)
        return work_s

    def keeps(self, request: Request, now_s: float) -> bool:
        """Whether memory has room for it, its prefill is in time and delays nobody's too far.

        And every decode keeps its pace with one more among them, as far as the request's own pace
        and the decodes that are behind already tell.
        """
        policy = self.policy
        expected = policy.lengths.expect(
            request.qos_class, request.tenant, request.max_tokens, hint=request.expected_output_tokens
        )
        num_kv_tokens = request.num_prompt_tokens + expected
        if self.num_free_seqs < 1 or num_kv_tokens > self.num_free_kv_tokens:
            return False
        shape = policy.ledger.decode_shape()
        more = shape._replace(
            num_decode_tokens=shape.num_decode_tokens + 1,
            decode_context=shape.decode_context + num_kv_tokens,
        )
        step_s = policy.model.predict_s(more)
        if request.slo.tbt_s is not None and step_s > request.slo.tbt_s:
            return False
        start_at = max(now_s, self.free_at)
        if policy.slack_s(start_at) < 0:
            return False
        turn = _turn(policy, request, expected)
        start_at += HEADROOM * max(0.0, turn.due_at - start_at)
        return _backlog(policy).fits(request.request_id, turn.key, turn.work_s, turn.due_at, start_at)


def _backlog(policy: BasePolicy) -> Backlog:
    """Return the prefills that wait, in the order of service."""
    if isinstance(policy, NiyamaPolicy):
        return policy.backlog
    if isinstance(policy, (FixedChunkPolicy, PaperPolicy)):
        return policy._order
    raise TypeError(f"policy: {policy.name!r} has no order of service that could be asked")


def _turn(policy: BasePolicy, request: Request, expected: int) -> Turn:
    """Return where a request would stand if it arrived now; nothing is changed."""
    job = Job(request, expected)
    if isinstance(policy, PaperPolicy):
        job.due_at = policy._deadline_at(request)
        key: Key = (False, job.due_at + policy.alpha_s * job.remaining, request.arrived_at)
        return Turn(key, job.remaining / policy.prefill_rate, job.due_at)
    job.due_at = prefill_due_at(request, expected, policy.step_s)
    if isinstance(policy, FixedChunkPolicy):
        return Turn((*policy.key(job), request.arrived_at), job.remaining * policy.token_s, job.due_at)
    assert isinstance(policy, NiyamaPolicy)
    return Turn(hybrid_key(job, job.due_at, policy.alpha_s), job.remaining * policy.token_s, job.due_at)
