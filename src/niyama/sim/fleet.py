"""Which replica of a fleet a request goes to. Adding a router is a function and a line below.

A router that reads no state lets every replica run ahead on its own until its next request comes.
One that reads it needs all replicas at the instant of every arrival; a heap tells who is behind.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from niyama.scheduling import routing
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.policy import Request
from niyama.scheduling.reports import Report
from niyama.sim.checked import CheckedPolicy
from niyama.sim.replica import Replica
from niyama.workload.generate import Arrival

Choose = Callable[[Request, int, Sequence[Replica]], int]
"""Returns the index of the replica for a request, the n-th that arrives."""

ByReports = Callable[[Request, float, Sequence[Report]], int]
"""Returns the index of the replica for a request, at an instant."""

REPORT_EVERY_S = 0.1
"""Time between two reports of a replica; a router adds what it sent since."""


class Router(NamedTuple):
    """A rule.

    Attributes:
        start: Returns the rule for one fleet, which may remember what it saw.
        reads_state: Whether it looks at the replicas.
    """

    start: Callable[[], Choose]
    reads_state: bool


def round_robin(request: Request, number: int, replicas: Sequence[Replica]) -> int:
    """Each replica in turn."""
    return number % len(replicas)


def least_loaded(request: Request, number: int, replicas: Sequence[Replica]) -> int:
    """The replica with the fewest requests; the first of them. O(replicas)."""
    return min(range(len(replicas)), key=lambda index: len(replicas[index].live))


class Reported:
    """A rule that decides by reports, which the replicas send every so often, and by what it sent since.

    Args:
        choose: The rule.
        every_s: Time between two reports of a replica, seconds > 0.
    """

    def __init__(self, choose: ByReports, every_s: float) -> None:
        self._choose = choose
        self._every_s = every_s
        self._reports: list[Report] = []

    def __call__(self, request: Request, number: int, replicas: Sequence[Replica]) -> int:
        """Choose. Costs a report of every replica once per period, if anything arrives in it."""
        now_s, reports = request.arrived_at, self._reports
        if not reports or now_s // self._every_s > reports[0].taken_at // self._every_s:
            reports[:] = [report(replica, now_s) for replica in replicas]
        index = self._choose(request, now_s, reports)
        reports[index].sent(request)
        return index


def report(replica: Replica, now_s: float) -> Report:
    """Return what a replica reports of itself."""
    policy = replica.policy.inner if isinstance(replica.policy, CheckedPolicy) else replica.policy
    if not isinstance(policy, BasePolicy):
        raise TypeError(f"policy: {policy.name!r} has no ledger that a router could read")
    return Report(
        policy,
        now_s,
        replica.now_s,
        replica.limits.max_num_seqs - replica.num_running,
        replica.kv.num_free_tokens,
    )


def _least_work(request: Request, now_s: float, reports: Sequence[Report]) -> int:
    return routing.least_work(reports)


def by_rule(choose: Choose) -> Router:
    """Return the router of a rule that looks at the replicas and remembers nothing."""
    return Router(partial(_same, choose), reads_state=True)


def by_reports(choose: ByReports, every_s: float = REPORT_EVERY_S) -> Router:
    """Return the router of a rule that decides by reports; see `Reported`."""
    return Router(partial(Reported, choose, every_s), reads_state=True)


def _same(choose: Choose) -> Choose:
    return choose


ROUND_ROBIN = Router(partial(_same, round_robin), reads_state=False)

_BY_REPORTS: dict[str, ByReports] = {"least-work": _least_work, "slack-aware": routing.slack_aware}

ROUTERS: dict[str, Router] = {
    "round-robin": ROUND_ROBIN,
    "least-loaded": by_rule(least_loaded),
    **{name: by_reports(choose) for name, choose in _BY_REPORTS.items()},
}


def make_router(name: str, report_every_s: float = REPORT_EVERY_S) -> Router:
    """Return a router by name. Raises KeyError if there is none.

    Args:
        name: Of `ROUTERS`.
        report_every_s: Time between two reports of a replica, for the routers that read them, seconds.
    """
    choose = _BY_REPORTS.get(name)
    return ROUTERS[name] if choose is None else by_reports(choose, report_every_s)


class Fleet:
    """Replicas behind a router, each as far in time as it has to be."""

    def __init__(self, replicas: Sequence[Replica], router: Router) -> None:
        self.replicas = replicas
        self._choose = router.start()
        self._reads_state = router.reads_state
        self._behind: list[tuple[float, int]] = []  # who has requests, by its instant; a heap

    def arrive(self, arrival: Arrival, number: int) -> None:
        """Bring the fleet to the instant of an arrival, the `number`-th, and place the request.

        Costs the steps until then, each O(log replicas) more where the router reads state.
        """
        arrival = self.replicas[0].as_served(arrival)  # all have one role
        request = arrival.request
        if not self._reads_state:
            replica = self.replicas[self._choose(request, number, self.replicas)]
            while replica.live and replica.now_s < request.arrived_at:
                replica.step()
            replica.arrive(arrival)
            return
        self._advance(request.arrived_at)
        index = self._choose(request, number, self.replicas)
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
