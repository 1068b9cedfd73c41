"""Parts 1 and 6: capacities under two books, on every trace, and under the paper's criterion."""

from __future__ import annotations

from typing import NamedTuple

from niyama.bench.reproduce.cases import Trace
from niyama.latency import get_profile
from niyama.sim.bounds import bounds
from niyama.sim.verdicts import Criterion
from policytargets.runs import Runs
from policytargets.trials import Trial, under
from policytargets.verdict import Part, Table, Target, at_least

HOURS = {"paper": 4.0, "tight": 2.0, "five": 2.0}
"""Length of the runs that decide a capacity, by book."""

TRACES = {"paper": ("azure-code", "sharegpt", "azure-conv"), "tight": ("azure-code", "sharegpt")}

OF_BOUND = 0.98
OVER_PAPER = 1.15
OVER_EDF = {"azure-code": 1.2, "sharegpt": 1.35}

Traces = dict[str, Trace]


class Row(NamedTuple):
    """Capacities on one trace, requests per second, and the bounds."""

    trace: Trace
    fcfs: float
    edf: float
    paper: float
    best: float
    best_ms: float
    niyama: float
    bound_tbt: float
    bound: float


def niyama_qps(runs: Runs, book: str, trace: Trace) -> float:
    """Return Niyama's capacity under a book."""
    return runs.capacity(Trial(trace=trace, policy="niyama", book=book), HOURS[book])


def row(runs: Runs, book: str, trace: Trace) -> Row:
    """Search every policy's capacity."""
    trial, hours = Trial(trace=trace, policy="niyama", book=book), HOURS[book]
    niyama = niyama_qps(runs, book, trace)
    paper = runs.capacity(under(trial, "paper"), hours, niyama)
    best, best_ms = runs.best_alpha(trial, hours, paper)
    edf = runs.capacity(under(trial, "edf"), hours, 0.8 * niyama)
    fcfs = runs.capacity(under(trial, "fcfs"), hours, 0.5 * niyama)
    both = bounds(trial.workload(), get_profile(trial.model.profile), trial.limits)
    return Row(trace, fcfs, edf, paper, best, best_ms, niyama, both.tbt_qps, both.qps)


def part(runs: Runs, traces: Traces, book: str) -> Part:
    """Return the capacities under a book and what they are to be."""
    rows = [row(runs, book, traces[name]) for name in TRACES[book]]
    judge = _loose if book == "paper" else _tight
    targets = [target for found in rows for target in judge(found)]
    headers = ["trace", "FCFS", "EDF", "paper, 8 ms", "best static alpha", "at, ms", "niyama", "bound, TBT"]
    title = f"Capacity, {book} book, {runs.hours(HOURS[book]):g} h of arrivals, requests/s"
    return Part(title, targets, [Table(title, [*headers, "bound"], [_shown(one) for one in rows])])


def _shown(one: Row) -> list[str]:
    baselines = [
        f"{one.fcfs:.2f}",
        f"{one.edf:.2f}",
        f"{one.paper:.3f}",
        f"{one.best:.3f}",
        f"{one.best_ms:g}",
    ]
    return [one.trace.title, *baselines, f"{one.niyama:.3f}", f"{one.bound_tbt:.2f}", f"{one.bound:.2f}"]


def _loose(found: Row) -> list[Target]:
    name = found.trace.title
    return [
        at_least(f"{name}: niyama >= paper", found.niyama, found.paper),
        at_least(f"{name}: niyama >= {OF_BOUND} x bound_tbt", found.niyama, OF_BOUND * found.bound_tbt),
    ]


def _tight(found: Row) -> list[Target]:
    name, over_edf = found.trace.title, OVER_EDF[found.trace.name]
    return [
        at_least(f"{name}: niyama >= {OVER_PAPER} x paper", found.niyama, OVER_PAPER * found.paper),
        at_least(f"{name}: niyama >= {over_edf} x EDF", found.niyama, over_edf * found.edf),
        at_least(f"{name}: niyama >= the best static alpha ({found.best_ms:g} ms)", found.niyama, found.best),
    ]


def criterion(runs: Runs, traces: Traces) -> Part:
    """Return the capacities under the paper's criterion: niyama is never below the published policy."""
    anchor: Criterion = "paper"
    targets, rows = [], []
    for book, names in TRACES.items():
        for name in names:
            trial = Trial(trace=traces[name], policy="niyama", book=book, criterion=anchor)
            niyama = runs.capacity(trial, HOURS[book])
            paper = runs.capacity(under(trial, "paper"), HOURS[book], niyama)
            text = f"{traces[name].title}, {book} book, criterion paper: niyama >= paper"
            targets.append(at_least(text, niyama, paper))
            rows.append([traces[name].title, book, f"{paper:.3f}", f"{niyama:.3f}"])
    title = "Capacity under the paper criterion, requests/s"
    return Part(title, targets, [Table(title, ["trace", "book", "paper, 8 ms", "niyama"], rows)])
