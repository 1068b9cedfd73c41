"""What is asked of every contestant: scenarios, and the runs that they consist of."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from niyama.bench.planned import Lengths
from niyama.bench.promises import LOW_SUFFIX
from niyama.qos import Importance, QosBook
from niyama.scheduling.policy import Request
from niyama.wording import listed, shown
from niyama.workload.arrivals import parse_arrivals
from niyama.workload.generate import Arrival, Arrivals, Shares, Workload
from niyama.workload.tracefile import TraceRow

SCENARIOS = ("steady", "square", "alone", "flood", "backlog", "low")
"""In words: see `WORDS`."""

WORDS = {
    "steady": "all classes at a steady load",
    "square": "the load changes between 0.6 and 1.5",
    "alone": "one batch class as fast as it goes",
    "flood": "long prompts come all at once among the others",
    "backlog": "a batch class is kept waiting while the interactive ones run at 0.9 of what they can take",
    "low": "load 1.3, 20 % of the requests of low importance",
}

TUNE, KNEE, OWN_KNEE = "tune", "knee", "own-knee"
"""Runs that choose: stock's chunk, the knee, and the interactive classes' own knee."""
SEARCHED = (KNEE, OWN_KNEE)
"""Runs that only show whether a load is kept in time: they end as soon as it is not."""

TUNE_LOAD = 1.0
SQUARE_LOW, SQUARE_HIGH = 0.6, 1.5
LOW_LOAD, LOW_SHARE = 1.3, 0.2
FLOOD_BASE, FLOOD_SHARE = 0.7, 0.15
"""Load of the others, and work of the flood as a share of what the engine sustains over the run."""
FLOOD_AT, FLOOD_LASTS = 1 / 3, 0.05
"""When the flood comes and for how long, as shares of the run."""
BACKLOG_SHARE = 0.9
ALONE_TURNS = 3
"""Throughput is compared in so many turns at least: a machine's speed changes by more than the difference."""

SLO_TIMES = 3.0
"""A run lasts so many times the longest promise: lateness needs time to build up."""
MIN_RUN_S = 90.0


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one contestant.

    Attributes:
        scenario: One of `SCENARIOS`, or a run that chooses.
        load: Share of what stock vLLM sustains; 0 where the loop is closed.
        repeat: Number of the repeat, from 0; each has its own seed.
    """

    scenario: str
    load: float
    repeat: int = 0

    @property
    def twins(self) -> list[Job]:
        """Jobs under other names in which the same requests arrive at the same instants."""
        same = ["steady", KNEE] + [TUNE] * (self.load == TUNE_LOAD)
        if self.scenario not in same:
            return []
        return [Job(name, self.load, self.repeat) for name in same if name != self.scenario]

    @property
    def key(self) -> str:
        """Name for files."""
        return f"{self.scenario}-{self.load:.3f}-{self.repeat}"


def check_scenarios(names: Sequence[str]) -> None:
    """Refuse an unknown scenario, and none at all. Raises ValueError naming it."""
    if not names:
        raise ValueError(f"--scenario: empty; allowed: {listed(SCENARIOS)}")
    for name in names:
        if name not in SCENARIOS:
            raise ValueError(f"--scenario: {shown(name)} is unknown; allowed: {listed(SCENARIOS)}")


def plan_jobs(scenarios: Sequence[str], loads: Sequence[float], repeats: int) -> list[Job]:
    """Return the runs of every contestant, all but those whose load is yet to be found."""
    fixed = {"square": (SQUARE_LOW + SQUARE_HIGH) / 2, "alone": 0.0, "flood": FLOOD_BASE + FLOOD_SHARE}
    fixed["low"] = LOW_LOAD
    jobs: list[Job] = []
    for repeat in range(repeats):
        for scenario in scenarios:
            if scenario == "steady":
                jobs += [Job(scenario, load, repeat) for load in loads]
            elif scenario in fixed:
                jobs.append(Job(scenario, fixed[scenario], repeat))
    if "alone" in scenarios:
        jobs += [Job("alone", fixed["alone"], turn) for turn in range(repeats, ALONE_TURNS)]
    return jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What all runs draw from.

    Attributes:
        trace: Name of the lengths.
        rows: The lengths.
        lengths: How they are fitted to the model.
        book: The promises as the client judges them, twins of low importance included.
        seed: Of the first repeat.
        seconds: For how long requests arrive; None for the rule.
        closed_s: Length of a closed loop, the first third of which does not count.
    """

    trace: str
    rows: Shares[TraceRow]
    lengths: Lengths
    book: QosBook
    seed: int = 0
    seconds: float | None = None
    closed_s: float = 45.0

    @property
    def classes(self) -> list[str]:
        """The classes of ordinary runs: all but the twins."""
        names = self.book.classes
        return [n for n in names if not (n.endswith(LOW_SUFFIX) and n.removesuffix(LOW_SUFFIX) in names)]

    @property
    def interactive(self) -> list[str]:
        """Those that somebody reads along."""
        return [n for n in self.classes if self.book.classes[n].slo.is_interactive]

    @property
    def batch(self) -> str:
        """The class with the longest promise."""
        slos = {n: self.book.classes[n].slo for n in self.classes}
        return max(slos, key=lambda n: slos[n].ttlt_s or slos[n].ttft_s or 0.0)

    def mix(self, scenario: str) -> dict[str, float]:
        """Return the weights of the classes in a scenario."""
        if scenario in (OWN_KNEE, "backlog"):
            return dict.fromkeys(self.interactive or self.classes, 1.0)
        if scenario == "alone":
            return {self.batch: 1.0}
        if scenario == "low":
            return self._low_mix()
        return dict.fromkeys(self.classes, 1.0)

    def _low_mix(self) -> dict[str, float]:
        """Return weights that give low importance its share, whether by twins or by classes of its own."""
        twins = {n + LOW_SUFFIX: LOW_SHARE for n in self.classes if n + LOW_SUFFIX in self.book.classes}
        weights = {**dict.fromkeys(self.classes, 1.0 - LOW_SHARE), **twins}
        low = {n for n in weights if self.book.classes[n].importance is Importance.LOW}
        low_sum = sum(weights[n] for n in low)
        other_sum = sum(weights[n] for n in weights if n not in low)
        return {
            n: weight * (LOW_SHARE / low_sum if n in low else (1.0 - LOW_SHARE) / other_sum)
            for n, weight in weights.items()
        }

    def run_s(self, scenario: str) -> float:
        """Return for how long requests arrive, or how long a closed loop lasts."""
        if scenario == "alone":
            return self.closed_s
        if self.seconds is not None:
            return self.seconds
        occur = {*self.mix(scenario)}
        if scenario == "backlog":
            occur.add(self.batch)
        slos = [self.book.classes[name].slo for name in occur]
        promises = [part for slo in slos for part in (slo.ttft_s, slo.ttlt_s) if part is not None]
        return max(MIN_RUN_S, SLO_TIMES * max(promises, default=0.0))

    def workload(self, job: Job, saturation_qps: float) -> Workload:
        """Return what arrives in a run."""
        arrivals: Arrivals = parse_arrivals("poisson", [])
        if job.scenario == "square":
            level_s = self.run_s("square") / 6
            arrivals = parse_arrivals(f"square:{SQUARE_LOW}:{SQUARE_HIGH}:{level_s}", [])
        elif job.scenario == "flood":
            arrivals = partial(_at_share, arrivals, FLOOD_BASE / job.load)
        make = partial(
            Workload,
            name=self.trace,
            lengths=self.rows,
            book=self.book,
            mix=self.mix(job.scenario),
            seed=self.seed + job.repeat,
        )
        if job.scenario == "flood":
            return self._flooded(make(arrivals=arrivals), saturation_qps)
        return make(arrivals=arrivals)

    def _flooded(self, base: Workload, saturation_qps: float) -> Workload:
        run_s = self.run_s("flood")
        weighted = [(row.num_prefill_tokens + row.num_decode_tokens, w) for row, w in self.rows.weighted()]
        mean = sum(tokens * weight for tokens, weight in weighted) / sum(weight for _, weight in weighted)
        longest = max((row for row in self.rows), key=lambda row: row.num_prefill_tokens)
        share = mean / (longest.num_prefill_tokens + longest.num_decode_tokens)
        return Flooded(
            **{name: getattr(base, name) for name in _WORKLOAD_FIELDS},
            long=longest,
            num_long=max(1, round(FLOOD_SHARE * saturation_qps * run_s * share)),
            begins_at=FLOOD_AT * run_s,
            lasts_s=FLOOD_LASTS * run_s,
            long_class=self.batch,
        )


_WORKLOAD_FIELDS = ("name", "lengths", "book", "arrivals", "mix", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded(Workload):
    """A workload into which long prompts break.

    Attributes:
        long: What a long request looks like.
        num_long: How many come.
        begins_at: When the first of them comes.
        lasts_s: From the first to the last, evenly.
        long_class: Their class.
    """

    long: TraceRow
    num_long: int
    begins_at: float
    lasts_s: float
    long_class: str

    def requests(self, qps: float, num_requests: int) -> Iterator[Arrival]:
        """Yield the first so many requests in order of arrival, the flood on top of the others."""
        base = Workload.requests(self, qps, num_requests)
        both = heapq.merge(base, self._flood(), key=lambda arrival: arrival.request.arrived_at)
        return islice(both, num_requests)

    def _flood(self) -> Iterator[Arrival]:
        slo = self.book.classes[self.long_class].slo
        for number in range(self.num_long):
            request = Request(
                request_id=f"flood{number}",
                arrived_at=self.begins_at + self.lasts_s * number / self.num_long,
                slo=slo,
                num_prompt_tokens=self.long.num_prefill_tokens,
                max_tokens=max(1, self.long.num_decode_tokens),
                qos_class=self.long_class,
                importance=Importance.NORMAL,
            )
            yield Arrival(request, self.long.num_decode_tokens)


def _at_share(arrivals: Arrivals, share: float, rng: object, qps: float) -> Iterator[float]:
    """Yield the instants of a share of the rate."""
    return arrivals(rng, share * qps)  # type: ignore[arg-type]
