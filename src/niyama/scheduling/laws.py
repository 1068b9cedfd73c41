"""The laws that every policy and host keeps, as checks (numbered in docs/laws.md).

For tests and debug runs: each check costs O(requests) and raises `LawBroken`, which names the law
and the facts. Laws about two runs (L6, L8, L11) and about a whole run (L10, L12) are
checked by the property tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from niyama.scheduling.backlog import Backlog
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.ledger import Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import Plan
from niyama.scheduling.shares import NUM_STANDINGS

TOLERANCE_S = 1e-6
"""Sums of the same durations in another order may differ by this."""


class LawBroken(AssertionError):
    """A law does not hold; the message starts with its number."""


def _require(law: str, is_kept: bool, facts: object) -> None:
    if not is_kept:
        raise LawBroken(f"{law}: {facts}")


def check_plan(policy: BasePolicy, now_s: float, limits: Limits, plan: Plan) -> None:
    """Check a plan right after the policy made it (L1, L2, L3, L7, L9).

    Args:
        policy: Who made it, with nothing begun since.
        now_s: The instant it was made for.
        limits: What it was made for.
        plan: The decision.
    """
    _require("L5", math.isfinite(now_s), f"planned for the instant {now_s}")
    _check_members(policy, plan)
    _check_tokens(policy, limits, plan)
    _check_time(policy, now_s, plan)
    _check_work(policy, limits, plan)


def check_state(policy: BasePolicy) -> None:
    """Check the books of a policy between any two calls (L1)."""
    try:
        policy.ledger.check()
    except AssertionError as error:
        raise LawBroken(f"L1: the ledger's sums are wrong: {error}") from error
    jobs = policy.ledger.jobs
    prefills = {i for i, job in jobs.items() if job.phase is not Phase.DECODING}
    order = Counter(job.request_id for job in policy.in_order())
    _require("L1", set(order) == prefills, f"in order {sorted(order)}, to prefill {sorted(prefills)}")
    _require("L1", all(n == 1 for n in order.values()), f"more than once in order: {order}")
    paced = {i for i, _ in policy.pacer.all_due(policy.ledger.num_launches)}
    _require("L1", paced <= set(jobs) - prefills, f"paced without decoding: {sorted(paced - set(jobs))}")
    for job in jobs.values():
        _require("L3", job.remaining >= 0 and job.computed >= 0, f"{job.request_id}: negative work")
    if isinstance(policy, NiyamaPolicy):
        _check_orders(policy)


def check_backlog(backlog: Backlog) -> None:
    """Check that what a backlog carries along equals what it stands for, O(n)."""
    items = [backlog.item(i) for i in backlog]
    keys = [item.key for item in items]
    _require("L1", len(items) == len(backlog), f"{len(items)} reached of {len(backlog)}")
    _require("L1", keys == sorted(keys), "the backlog is out of order")
    done_s, margin = 0.0, math.inf
    for item in items:
        done_s += item.work_s
        margin = min(margin, item.due_at - done_s)
    _require("L1", math.isclose(backlog.total_s, done_s, abs_tol=TOLERANCE_S), "the backlog's work is wrong")
    is_same = math.isclose(backlog.margin, margin, rel_tol=1e-9, abs_tol=TOLERANCE_S)
    _require("L1", is_same, f"margin {backlog.margin}, counted {margin}")


def check_kv(allocated: Iterable[int], free: int, total: int) -> None:
    """Check a host's KV blocks (L4): those of each request, those free, and all."""
    used = list(allocated)
    _require("L4", free >= 0 and min(used, default=0) >= 0, f"negative blocks: {used}, free {free}")
    _require("L4", sum(used) + free == total, f"{sum(used)} allocated + {free} free != {total}")


def check_times(*instants: float) -> None:
    """Check that instants do not go back (L5): arrival, scheduling, first token, last token."""
    _require("L5", list(instants) == sorted(instants), f"time goes back: {instants}")


def _check_members(policy: BasePolicy, plan: Plan) -> None:
    """Nobody is in two places, and everybody is in the phase that fits (L1)."""
    jobs, started = policy.ledger.jobs, policy.ledger.started
    ids = [chunk.request_id for chunk in plan.chunks]
    _require("L1", len(ids) == len(set(ids)), f"two chunks for one request: {ids}")
    for name, names in (("held", plan.held), ("spares", plan.spares)):
        _require("L1", len(names) == len(set(names)), f"{name} twice: {names}")
        _require("L1", not set(names) & set(ids), f"both {name} and run: {names}")
    for i in (*ids, *plan.spares, *plan.relegated, *plan.restored):
        _require("L1", i in jobs and jobs[i].phase is not Phase.DECODING, f"{i} is not a prefill")
    _require("L1", set(plan.held) | (set(started) & set(ids)) == set(started), f"held {plan.held}")
    _require("L1", set(plan.held) <= set(started), f"held {plan.held}, started {list(started)}")
    for i in plan.stalled:
        _require("L1", jobs[i].phase is Phase.DECODING, f"{i} is stalled and does not decode")
    for i in plan.restored:
        _require("L1", not jobs[i].relegated, f"{i} is restored and still set aside")
    for i in set(plan.relegated) - set(plan.restored):
        _require("L1", jobs[i].relegated, f"{i} is relegated and not set aside")


def _check_tokens(policy: BasePolicy, limits: Limits, plan: Plan) -> None:
    """The budget (L2), each chunk (L3), and the shape that sums them."""
    jobs = policy.ledger.jobs
    for request_id, num_tokens in plan.chunks:
        remaining = jobs[request_id].remaining
        _require("L3", 1 <= num_tokens <= remaining, f"{request_id}: {num_tokens} of {remaining}")
    num_prefill = sum(chunk.num_tokens for chunk in plan.chunks)
    num_decode = (policy.ledger.num_decoding - len(plan.stalled)) * limits.tokens_per_decode
    _require("L3", plan.shape[:2] == (num_prefill, num_decode), f"{plan.shape}: {num_prefill}+{num_decode}")
    _require("L2", num_prefill + num_decode <= plan.budget, f"{num_prefill}+{num_decode} > {plan.budget}")
    if plan.chunks:
        _require("L2", plan.budget <= limits.token_budget, f"{plan.budget} > {limits.token_budget}")
    starting = [i for i, _ in plan.chunks if jobs[i].phase is Phase.WAITING]
    _require("L2", len(starting) <= limits.free_seqs, f"{starting} start, {limits.free_seqs} free")


def _check_time(policy: BasePolicy, now_s: float, plan: Plan) -> None:
    """The step fits the tightest slack unless the plan says that it is late; who sits out has time (L7).

    Of a policy that spares decodes a step is late only if it would be without any prefill.
    """
    predicted_s = plan.predicted_s
    _require("L7", 0 < predicted_s < math.inf, f"predicted {predicted_s}")
    _require("L7", predicted_s == policy.model.predict_s(plan.shape), "predicted for another shape")
    _require("L7", plan.slack_s == policy.slack_s(now_s), f"slack {plan.slack_s}")
    _require("L7", plan.is_late == (predicted_s > plan.slack_s), f"{predicted_s} in {plan.slack_s}")
    if policy.spares_decodes and plan.chunks:
        _require("L7", not plan.is_late, f"{plan.chunks} in {predicted_s}, slack {plan.slack_s}")
    due = dict(policy.pacer.all_due(policy.ledger.num_launches)) if plan.stalled else {}
    for i in plan.stalled:
        _require(
            "L7", bool(plan.chunks) and due[i] > now_s + predicted_s, f"{i} sits out and is due at {due[i]}"
        )


def _check_work(policy: BasePolicy, limits: Limits, plan: Plan) -> None:
    """A step does not stay empty while a prefill could run (L9)."""
    ledger = policy.ledger
    if ledger.num_decoding or plan.chunks or limits.token_budget < 1:
        return
    _require("L9", not ledger.started, f"an empty step holds {list(ledger.started)}")
    _require("L9", not ledger.jobs or limits.free_seqs < 1, f"an empty step, {len(ledger.jobs)} wait")


def _check_orders(policy: NiyamaPolicy) -> None:
    """Set aside or not, each prefill is where its flag says, with the work that it has (L1)."""
    decoding = [job for job in policy.ledger.jobs.values() if job.phase is Phase.DECODING]
    for job in decoding:
        _require("L1", not job.relegated, f"{job.request_id} decodes and is set aside")
    for backlog, is_aside in ((policy.backlog, False), (policy.set_aside, True)):
        check_backlog(backlog)
        for i in backlog:
            job, item = policy.ledger.jobs[i], backlog.item(i)
            _require("L1", job.relegated is is_aside, f"{i}: relegated is {job.relegated}")
            _require("L1", item.due_at == job.due_at, f"{i}: due {job.due_at}, in order {item.due_at}")
            _require("L1", item.work_s > 0, f"{i}: work {item.work_s}")
            rank = (NUM_STANDINGS * job.request.importance + job.standing, job.request.priority)
            _require("L1", item.rank == rank, f"{i}: rank {rank}, in order {item.rank}")
