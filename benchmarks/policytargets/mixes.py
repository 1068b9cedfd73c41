"""Part 2: other class mixes and seeds. Niyama is nowhere worse than anybody by more than 2 %."""

from __future__ import annotations

from typing import NamedTuple

from policytargets.capacity import HOURS, Traces
from policytargets.runs import Runs
from policytargets.trials import Trial, under
from policytargets.verdict import Part, Table, Target, ratio

TRACES = ("azure-code", "sharegpt")
TOLERANCE = 0.02


class Mix(NamedTuple):
    """Classes in other shares than equal ones."""

    title: str
    book: str
    weights: tuple[float, ...]
    hours: float


MIXES = (
    Mix("paper's book, 10/45/45", "paper", (10, 45, 45), 2.0),
    Mix("paper's book, 80/10/10", "paper", (80, 10, 10), 2.0),
    Mix("five classes", "five", (), HOURS["five"]),
    Mix("tight book, 10/30/30/30", "tight", (10, 30, 30, 30), HOURS["tight"]),
    Mix("tight book, 70/10/10/10", "tight", (70, 10, 10, 10), HOURS["tight"]),
)


def part(runs: Runs, traces: Traces, num_seeds: int) -> Part:
    """Return the capacities of every mix, trace and seed, and where niyama is worse."""
    targets: list[Target] = []
    rows: list[list[str]] = []
    for mix in MIXES:
        for name in TRACES:
            for seed in range(1, num_seeds + 1):
                trial = Trial(trace=traces[name], policy="niyama", book=mix.book, mix=mix.weights, seed=seed)
                place = [mix.title, traces[name].title, str(seed)]
                target, shown = _one(runs, trial, mix.hours, ", ".join(place))
                targets.append(target)
                rows.append([*place, *shown])
    headers = ["mix", "trace", "seed", "EDF", "paper, 8 ms", "best static alpha", "at, ms", "niyama"]
    title = "Capacity under other mixes, 2 h of arrivals, requests/s"
    return Part(title, targets, [Table(title, [*headers, "niyama over the best other"], rows)])


def _one(runs: Runs, trial: Trial, hours: float, place: str) -> tuple[Target, list[str]]:
    niyama = runs.capacity(trial, hours)
    paper = runs.capacity(under(trial, "paper"), hours, niyama)
    best, best_ms = runs.best_alpha(trial, hours, paper)
    edf = runs.capacity(under(trial, "edf"), hours, 0.8 * niyama)
    others = {"EDF": edf, "paper": paper, f"static alpha {best_ms:g} ms": best}
    rival = max(others, key=lambda name: others[name])
    over = ratio(niyama, others[rival])
    target = Target(
        f"{place}: niyama over EDF, paper and best static alpha",
        f">= {1 - TOLERANCE:.2f}x",
        f"{over:.3f}x {rival}",
        over >= 1 - TOLERANCE,
    )
    shown = [f"{edf:.2f}", f"{paper:.3f}", f"{best:.3f}", f"{best_ms:g}", f"{niyama:.3f}", f"{over:.3f}x"]
    return target, shown
