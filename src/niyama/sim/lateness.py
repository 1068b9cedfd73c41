"""How many requests of a run must be late, whoever schedules it: a lower bound, with hindsight.

The scheduler that it bounds knows all arrivals and lengths, breaks off and takes up work at no cost, and
fills every step in the best way. Proof that no run has fewer late requests:

1. A request that is in time is computed in its window: from its arrival to the instant at which its last
   token is due, or its first if only that is. With TTFT and TBT, the last of n tokens is due
   TTFT + (n - 1) * TBT after the arrival at the latest, by the criteria `strict` and `paper`.
2. The steps with its tokens lie within its window. The steps of all requests whose windows lie within
   [s, t] do not overlap on one replica, so they last t - s together at most; on n replicas n * (t - s).
3. They last no less than the sum of what those requests cost by `niyama.sim.prices`.
4. So the costs of the requests in time fit every such stretch, like jobs that a machine of speed n ends in
   time if it may break them off. `niyama.sim.sweep` gives the most that do, parts of jobs counted as well.
5. Tokens of one answer come one step after the other: a request whose window is shorter than its prefill's
   cost and the shortest steps for its answer is late whatever runs, and needs no room.

What is left out, and so what a gap to a policy may be: memory and seats over time, the pace of tokens
within an answer and the small steps that it asks for, that the future is not known, and that requests
which are late are served all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from niyama.qos import EVERYBODY
from niyama.scheduling.deadlines import first_token_due_at, last_token_due_at
from niyama.scheduling.policy import LatencyModel
from niyama.sim.live import ReplicaLimits
from niyama.sim.prices import Prices, Work, best_prices, work_of
from niyama.sim.sweep import Job, most_in_time
from niyama.sim.verdicts import TOLERANCE_S, Criterion, Served

ROUNDING = 0.01
"""Requests by which sums of very many shares may be off."""


def late_share_bound(
    served: Sequence[Served],
    profile: LatencyModel,
    limits: ReplicaLimits,
    *,
    criterion: Criterion,
    num_replicas: int = 1,
) -> dict[str, float]:
    """Return the least late share of `all` requests, and of those of each importance, by name.

    That of an importance is for a fleet that serves nobody else, so all of them cannot be reached together.

    Args:
        served: Every request of a run that was served to its end; only its lengths and its promise count.
        profile: Step times of a replica.
        limits: What a replica can hold.
        criterion: When a request is late.
        num_replicas: Size of the fleet.

    Cost: about 10 to 20 microseconds per request and importance, and a second for the prices.
    """
    if not served:
        return {}
    works = [_work(done) for done in served]
    longest = max(done.request.num_prompt_tokens + done.num_tokens for done in served)
    prices = best_prices(profile, limits, Work(*map(sum, zip(*works, strict=True))), longest)
    order = sorted({done.request.importance for done in served})
    groups = {EVERYBODY: list(served)} | {
        one.name.lower(): [done for done in served if done.request.importance is one] for one in order
    }
    found: dict[str, float] = {}
    for name, group in groups.items():
        if name != EVERYBODY and len(group) == len(served):
            found[name] = found[EVERYBODY]
        else:
            found[name] = fewest_late(group, prices, criterion, num_replicas) / len(group)
    return found


def fewest_late(served: Sequence[Served], prices: Prices, criterion: Criterion, num_replicas: int = 1) -> int:
    """Return how many of some requests are late at least, if nobody else is served. O(n log n)."""
    num_late = 0
    jobs: list[Job] = []
    for done in served:
        due_at = _last_due_at(done, criterion)
        work = _work(done)
        if due_at == math.inf:
            due_at, work = first_token_due_at(done.request), _prefill(work)
            if due_at == math.inf:
                continue
        arrived_at = done.request.arrived_at
        prefill_s = max(prices.cost_s(_prefill(work)), prices.step_s)
        if arrived_at + prefill_s + work.num_decode_tokens * prices.step_s > due_at + TOLERANCE_S:
            num_late += 1
        else:
            jobs.append(Job(arrived_at, due_at + TOLERANCE_S, prices.cost_s(work) / num_replicas))
    return num_late + max(0, math.ceil(len(jobs) - most_in_time(jobs) - ROUNDING))


def _last_due_at(done: Served, criterion: Criterion) -> float:
    """Return when the last token must be there at the latest; infinite if only the first one must."""
    request, tbt_s = done.request, done.request.slo.tbt_s
    due_at = last_token_due_at(request)
    if tbt_s is None or criterion == "artifact":
        return due_at
    return min(due_at, first_token_due_at(request) + (done.num_tokens - 1) * tbt_s)


def _work(done: Served) -> Work:
    request = done.request
    num_cached = min(request.num_cached_tokens, request.num_prompt_tokens - 1)
    return work_of(request.num_prompt_tokens, num_cached, done.num_tokens)


def _prefill(work: Work) -> Work:
    return work._replace(num_decode_tokens=0.0, decode_context=0.0)
