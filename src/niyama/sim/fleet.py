"""Which replica of a fleet a request goes to. Adding a router is a function and a line in ROUTERS.

A router that reads no state lets every replica run ahead on its own until its next request comes.
One that reads it needs all replicas at the instant of every arrival; a heap tells who is behind.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

from niyama.scheduling import routing
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.policy import Request
from niyama.sim.checked import CheckedPolicy
from niyama.sim.kv import BLOCK_TOKENS
from niyama.sim.replica import Replica
from niyama.workload.generate import Arrival

Choose = Callable[[Request, int, Sequence[Replica]], int]
"""Returns the index of the replica for a request, the n-th that arrives."""


class Router(NamedTuple):
    """A rule, and whether it looks at the replicas."""

    choose: Choose
    reads_state: bool


def round_robin(request: Request, number: int, replicas: Sequence[Replica]) -> int:
    """Each replica in turn."""
    return number % len(replicas)


def least_loaded(request: Request, number: int, replicas: Sequence[Replica]) -> int:
    """The replica with the fewest requests; the first of them. O(replicas)."""
    return min(range(len(replicas)), key=lambda index: len(replicas[index].live))


def least_work(request: Request, number: int, replicas: Sequence[Replica]) -> int:
    """The replica with the least work, seconds of engine time; the first of them. O(replicas)."""
    return routing.least_work([estimate(replica) for replica in replicas])


def slack_aware(request: Request, number: int, replicas: Sequence[Replica]) -> int:
    """The most loaded replica that keeps the promise (`scheduling.routing`)."""
    return routing.slack_aware(request, request.arrived_at, [estimate(replica) for replica in replicas])


def estimate(replica: Replica) -> routing.PolicyEstimate:
    """Return what a router may ask a replica now.

    Whoever waits has a seat and memory for its prompt set apart; whoever was set aside has not.
    """
    policy = replica.policy.inner if isinstance(replica.policy, CheckedPolicy) else replica.policy
    if not isinstance(policy, BasePolicy):
        raise TypeError(f"policy: {policy.name!r} has no ledger that a router could read")
    return routing.PolicyEstimate(
        policy,
        replica.now_s,
        replica.limits.max_num_seqs - replica.num_running - replica.num_waiting,
        replica.kv.free * BLOCK_TOKENS - replica.num_waiting_tokens,
    )


ROUND_ROBIN = Router(round_robin, reads_state=False)

ROUTERS: dict[str, Router] = {
    "round-robin": ROUND_ROBIN,
    "least-loaded": Router(least_loaded, reads_state=True),
    "least-work": Router(least_work, reads_state=True),
    "slack-aware": Router(slack_aware, reads_state=True),
}


class Fleet:
    """Replicas behind a router, each as far in time as it has to be."""

    def __init__(self, replicas: Sequence[Replica], router: Router) -> None:
        self.replicas = replicas
        self._router = router
        self._behind: list[tuple[float, int]] = []  # who has requests, by its instant; a heap

    def arrive(self, arrival: Arrival, number: int) -> None:
        """Bring the fleet to the instant of an arrival, the `number`-th, and place the request.

        Costs the steps until then, each O(log replicas) more where the router reads state.
        """
        arrival = self.replicas[0].as_served(arrival)  # all have one role
        request = arrival.request
        if not self._router.reads_state:
            replica = self.replicas[self._router.choose(request, number, self.replicas)]
            while replica.live and replica.now_s < request.arrived_at:
                replica.step()
            replica.arrive(arrival)
            return
        self._advance(request.arrived_at)
        index = self._router.choose(request, number, self.replicas)
        replica = self.replicas[index]
        was_idle = not replica.live
        replica.arrive(arrival)
        if was_idle:
            heapq.heappush(self._behind, (replica.now_s, index))

    def _advance(self, at: float) -> None:
        """Step whoever is behind `at`, the last one first."""
        behind = self._behind
        while behind and behind[0][0] < at:
            index = behind[0][1]
            replica = self.replicas[index]
            replica.step()
            if replica.live:
                heapq.heapreplace(behind, (replica.now_s, index))
            else:
                heapq.heappop(behind)
