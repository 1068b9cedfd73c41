"""The highest load at which no class has more than a given share of late requests.

By bisection on a grid of loads, on common random numbers: every probe sees the same requests, only
closer together or further apart. A probe ends early once some class has more late requests than
it may have in all, so overload costs little.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from niyama.sim.pool import worker_processes
from niyama.sim.run import Setup, simulate
from niyama.sim.verdicts import TOLERANCE_S, Served
from niyama.workload.generate import Arrival, Workload

DEFAULT_RESOLUTION = 100
"""Loads to choose from, up to the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is probed.

    Attributes:
        setup: The fleet and its policy; its criterion decides who is late.
        workload: What arrives.
        duration_s: For how long requests arrive; None if `num_requests` says how many.
        max_late: Share of a class that may be late.
    """

    setup: Setup
    workload: Workload
    duration_s: float | None = 4 * 3600.0
    num_requests: int | None = None
    max_late: float = 0.01

    def size(self, qps: float) -> int:
        """Return how many requests arrive at a load."""
        if self.num_requests is not None:
            return self.num_requests
        assert self.duration_s is not None
        return max(1, round(self.duration_s * qps))


class Probe(NamedTuple):
    """One simulated load.

    Attributes:
        late_share: Late requests among all of a class; at least so many if the run was given up.
        is_complete: Whether the run came to its end.
    """

    policy: str
    qps: float
    is_met: bool
    late_share: dict[str, float]
    is_complete: bool


@dataclass(slots=True)
class Search:
    """A bisection over 0..high: `low` is met, or 0; `high` is not. `probes` are its steps, in order."""

    low: int
    high: int
    probes: list[Probe] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether the answer, `low`, is found."""
        return self.high - self.low <= 1

    def points(self, most: int) -> list[int]:
        """Return the middle, which is next, then up to `most - 1` points that may follow, soonest first."""
        found: list[int] = []
        ranges = [(self.low, self.high)]
        for low, high in ranges:
            if high - low > 1 and len(found) < most:
                middle = low + round((high - low) / 2)
                found.append(middle)
                ranges += [(low, middle), (middle, high)]
        return found

    def learn(self, point: int, probe: Probe) -> None:
        """Narrow the range by what a probe at a point within it found."""
        if not self.low < point < self.high:
            raise ValueError(f"point: {point} is settled; allowed: between {self.low} and {self.high}")
        self.probes.append(probe)
        if probe.is_met:
            self.low = point
        else:
            self.high = point


def probe(question: Question, qps: float) -> Probe:
    """Simulate one load."""
    arrivals = list(question.workload.requests(qps, question.size(qps)))
    found = attempt(question.setup, arrivals, question.max_late)
    return Probe(question.setup.policy, qps, *found)


def search_around(probe_at: Callable[[int], Probe], most: int, start: int) -> Search:
    """Return the finished search over 0..most that looks around `start` first, in growing strides.

    Cheaper than bisection where about the answer is known. `probe_at` probes a point of the grid.
    """
    search = Search(0, most + 1)
    point, stride = min(most, max(1, start)), 1
    while not search.is_done:
        search.learn(point, probe_at(point))
        if search.low == 0:
            point, stride = max(1, search.high - stride), 2 * stride
        elif search.high == most + 1:
            point, stride = min(most, search.low + stride), 2 * stride
        else:
            point = (search.low + search.high) // 2
    return search


class Attempt(NamedTuple):
    """Whether a fleet kept its promises, and the fields of `Probe` that say how."""

    is_met: bool
    late_share: dict[str, float]
    is_complete: bool


def attempt(setup: Setup, arrivals: Sequence[Arrival], max_late: float) -> Attempt:
    """Serve arrivals; stop once a class has more late requests than it may have in all."""
    tally = _Tally(setup, arrivals, max_late)
    run = simulate(setup, tally.watched(), give_up=tally.is_lost)
    shares = {name: tally.late[name] / total for name, total in sorted(tally.totals.items())}
    is_met = run.is_complete and all(share <= max_late for share in shares.values())
    return Attempt(is_met, shares, run.is_complete)


class _Tally:
    """Late requests by class, each counted as soon as it is certain.

    A request that is still in when its last token is due is late, however long it then waits: one that was
    set aside may wait until the end of the run.
    """

    def __init__(self, setup: Setup, arrivals: Sequence[Arrival], max_late: float) -> None:
        self.late: Counter[str] = Counter()
        self.totals = Counter(arrival.request.qos_class for arrival in arrivals)
        self._setup = setup
        self._arrivals = arrivals
        self._max_late = max_late
        self._open: dict[str, str] = {}  # who is in and not counted yet, and its class
        self._due: list[tuple[float, str]] = []
        self._is_over = False

    def watched(self) -> Iterator[Arrival]:
        """Yield the arrivals, as long as it is open whether the load is in time."""
        # Every replica has been stepped to the arrival that came so many before, if not further.
        lag = self._setup.num_replicas
        for number, arrival in enumerate(self._arrivals):
            if number >= lag:
                self._count_overdue(self._arrivals[number - lag].request.arrived_at)
            if self._is_over:
                return
            request = arrival.request
            if request.slo.ttlt_s is not None:
                self._open[request.request_id] = request.qos_class
                due_at = request.arrived_at + request.slo.ttlt_s + TOLERANCE_S
                heapq.heappush(self._due, (due_at, request.request_id))
            yield arrival

    def is_lost(self, done: Served) -> bool:
        """Hear of a finished request; return whether some class has too many late ones."""
        has_ttlt = done.request.slo.ttlt_s is not None
        is_counted = has_ttlt and self._open.pop(done.request.request_id, None) is None
        if not is_counted and done.is_late(self._setup.criterion):
            self._add(done.request.qos_class)
        return self._is_over

    def _count_overdue(self, now_s: float) -> None:
        """Count who is still in though the last token was due before `now_s`. O(log n) each."""
        while self._due and self._due[0][0] < now_s:
            _, request_id = heapq.heappop(self._due)
            qos_class = self._open.pop(request_id, None)
            if qos_class is not None:
                self._add(qos_class)

    def _add(self, qos_class: str) -> None:
        self.late[qos_class] += 1
        if self.late[qos_class] > self._max_late * self.totals[qos_class]:
            self._is_over = True


def capacities(
    questions: Sequence[Question],
    bound_qps: float,
    *,
    resolution: int = DEFAULT_RESOLUTION,
    jobs: int = 1,
    progress: Callable[[Probe], None] = lambda probe: None,
) -> list[Search]:
    """Return the finished search of every question; its `low` times `bound_qps / resolution` is the answer.

    Args:
        questions: One per policy.
        bound_qps: The highest load that is tried.
        resolution: The answer is a multiple of this part of the bound.
        jobs: Processes. Where there are more than questions, loads that a search may come to are
            probed ahead; what it does not come to is dropped, so the result is the same for any number.
        progress: Hears of every probe of a search.
    """
    searches = [Search(0, resolution + 1) for _ in questions]

    def load(n: int, point: int) -> tuple[Question, float]:
        return questions[n], point * bound_qps / resolution

    if jobs > 1:
        with worker_processes(jobs) as workers:
            _search_ahead(searches, lambda n, point: workers.submit(probe, *load(n, point)), jobs, progress)
            workers.stop()  # what was begun ahead in vain still runs
        return searches
    while open_ones := [n for n, search in enumerate(searches) if not search.is_done]:
        for n in open_ones:
            (point,) = searches[n].points(1)
            found = probe(*load(n, point))
            searches[n].learn(point, found)
            progress(found)
    return searches


def _search_ahead(
    searches: Sequence[Search],
    begin: Callable[[int, int], Future[Probe]],
    jobs: int,
    progress: Callable[[Probe], None],
) -> None:
    """Finish the searches with up to `jobs` probes at once: every search's next point first."""
    begun: dict[tuple[int, int], Future[Probe]] = {}
    while not all(search.is_done for search in searches):
        levels = zip_longest(*(search.points(jobs) for search in searches))
        wanted = [(n, point) for level in levels for n, point in enumerate(level) if point is not None]
        num_running = sum(not future.done() for future in begun.values())
        for key in [key for key in wanted if key not in begun][: max(0, jobs - num_running)]:
            begun[key] = begin(*key)
        wait([future for key in wanted if (future := begun.get(key))], return_when=FIRST_COMPLETED)
        for n, search in enumerate(searches):
            while not search.is_done:
                (point,) = search.points(1)
                future = begun.get((n, point))
                if future is None or not future.done():
                    break
                found = future.result()
                search.learn(point, found)
                progress(found)
