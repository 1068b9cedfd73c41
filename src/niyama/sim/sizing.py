"""The fewest replicas that serve a demand: no class may have more than a given share late.

Every number of replicas that is tried sees the same requests. Under round robin a replica gets every
n-th of them, so a few of the n replicas tell what all of them do, at a fraction of the cost. A try
ends early once some class has more late requests than it may have in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from niyama.sim.capacity import attempt
from niyama.sim.run import Setup
from niyama.workload.generate import Arrival, Workload

DEFAULT_SAMPLE = 2
"""Replicas of a round-robin fleet that are simulated; a size that they reject is rejected."""

MOST_TIMES_GUESS = 64
"""A fleet so many times the first guess that is still late says that no size would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What arrives at a fleet, or at one silo of it.

    Attributes:
        workload: Everybody's requests.
        qps: Of the whole workload, requests per second.
        num_requests: Of the whole workload.
        classes: Whose requests are served here; everybody's if empty.
    """

    workload: Workload
    qps: float
    num_requests: int
    classes: tuple[str, ...] = ()

    @property
    def occurring(self) -> list[str]:
        """The classes that some request of the whole workload has, in the workload's order.

        Reads the requests until every class that can occur has come.
        """
        awaited = set(self.workload.class_shares)
        for arrival in self.workload.requests(self.qps, self.num_requests):
            awaited.discard(arrival.request.qos_class)
            if not awaited:
                break
        return [name for name in self.workload.class_shares if name not in awaited]

    def requests(self) -> Iterator[Arrival]:
        """Yield the requests in order of arrival; those of a silo are the same as in a shared fleet."""
        every = self.workload.requests(self.qps, self.num_requests)
        if not self.classes:
            return every
        return (arrival for arrival in every if arrival.request.qos_class in self.classes)


class SizeProbe(NamedTuple):
    """One size that was tried.

    Attributes:
        num_simulated: Replicas of it that were simulated.
        late_share: By class, of the requests of those; at least so many if the run was given up.
        is_complete: Whether the run came to its end.
    """

    replicas: int
    num_simulated: int
    is_met: bool
    late_share: dict[str, float]
    is_complete: bool


@dataclass(slots=True)
class Sizing:
    """The answer of a search.

    Attributes:
        replicas: The fewest that are in time; None if no size is.
        probes: What was tried, in order.
    """

    replicas: int | None
    probes: list[SizeProbe] = field(default_factory=list)

    @property
    def late_share(self) -> dict[str, float]:
        """By class, at the size found; the last probe of that size decides."""
        found = [probe.late_share for probe in self.probes if probe.replicas == self.replicas]
        return found[-1] if found else {}


def probe_size(setup: Setup, demand: Demand, num_replicas: int, max_late: float, sample: int) -> SizeProbe:
    """Simulate a fleet of one size.

    Args:
        setup: Its replicas; its own number of them is not used.
        demand: What arrives.
        num_replicas: The size.
        max_late: Share of a class that may be late.
        sample: How many of the replicas to simulate; 0, or a router that reads state: all.
    """
    num_simulated = min(sample or num_replicas, num_replicas)
    if setup.router.reads_state:
        num_simulated = num_replicas
    # Those of n replicas that are left out leave the others' turns as they are.
    arrivals = [a for n, a in enumerate(demand.requests()) if n % num_replicas < num_simulated]
    found = attempt(replace(setup, num_replicas=num_simulated), arrivals, max_late)
    return SizeProbe(num_replicas, num_simulated, *found)


def fewest_replicas(
    setup: Setup,
    demand: Demand,
    *,
    guess: int,
    max_late: float = 0.01,
    sample: int = DEFAULT_SAMPLE,
    progress: Callable[[SizeProbe], None] = lambda probe: None,
) -> Sizing:
    """Search the smallest fleet in time, first with one replica simulated, then with `sample`.

    Args:
        setup: The replicas; its own number of them is not used.
        demand: What arrives.
        guess: Where to begin, >= 1; the throughput bound is a good one.
        max_late: Share of a class that may be late.
        sample: See `probe_size`.
        progress: Hears of every probe.

    Returns:
        The size at which the demand is met and one less is not, as far as tried.
    """
    sizing = Sizing(None)
    most = guess * MOST_TIMES_GUESS
    samples = [sample] if setup.router.reads_state or sample == 1 else [1, sample]
    for num_simulated in samples:
        seen: dict[int, bool] = {}

        def is_met(size: int, seen: dict[int, bool] = seen, num_simulated: int = num_simulated) -> bool:
            if size not in seen:
                found = probe_size(setup, demand, size, max_late, num_simulated)
                seen[size] = found.is_met
                sizing.probes.append(found)
                progress(found)
            return seen[size]

        sizing.replicas = first_true(is_met, guess, most)
        if sizing.replicas is None:
            break
        guess = sizing.replicas
    return sizing


def first_true(is_met: Callable[[int], bool], guess: int, most: int) -> int | None:
    """Return the least n >= 1 with `is_met(n)`, which holds from some n on; None if not up to `most`.

    Steps away from the guess grow by half, then a bisection ends it: O(log |n - guess|) calls.
    """
    low, high, step = 0, most + 1, 1
    size = max(1, min(guess, most))
    while low + 1 < high:
        if is_met(size):
            high = size
            if low == 0:
                size, step = max(1, size - step), step + (step + 1) // 2
        else:
            low = size
            if high > most:
                size, step = min(most, size + step), step + (step + 1) // 2
        if low and high <= most:
            size = (low + high) // 2
    return high if high <= most else None
