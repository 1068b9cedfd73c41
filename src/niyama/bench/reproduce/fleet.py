"""GPUs for 35 requests/s of Azure Code: silos, a shared fleet, and silos on the GPUs of that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from niyama.bench.plots import colour
from niyama.bench.reproduce.cases import Case
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.page import Finding, Page, Table, percent, title
from niyama.sim.planning import Fleet, size_fleet
from niyama.sim.silo import Silo, make_silos, silo_late_share, simulate_silos
from niyama.sim.sizing import Demand

QPS = 35.0
TRACE = "azure-code"
POLICIES = ("fcfs", "edf", "paper", "niyama")
SILO_POLICY = "fcfs"
SAMPLES = {"full": 2, "quick": 1}
"""Replicas of a fleet that are simulated to size it."""
PAPER_GPUS = {"silo": 13, "shared": 10}
PAPER_LATE = 0.604
SILO_COLOURS = (colour("silo"), "#f4a98f")


class Size(NamedTuple):
    """The fewest replicas in time, None if no number is; by silo, or of `all` in one shared fleet."""

    replicas: dict[str, int | None]


def _silos(case: Case) -> list[Silo]:
    """Return the interactive silo and the batch silo, one replica each."""
    return make_silos(case.workload(), case.setup(), policy=SILO_POLICY)


def _demand(case: Case, qps: float, hours: float, classes: tuple[str, ...] = ()) -> Demand:
    num_requests = max(1, round(hours * 3600.0 * qps))
    return Demand(workload=case.workload(), qps=qps, num_requests=num_requests, classes=classes)


@dataclass(frozen=True, slots=True)
class SizeFleet:
    """How many replicas a shared fleet needs, or (`is_silo`) each of two silos."""

    case: Case
    qps: float
    hours: float
    sample: int
    is_silo: bool = False

    def run(self) -> Size:
        """Search."""
        if not self.is_silo:
            fleet = Fleet(
                name="all",
                setups=(self.case.setup(),),
                demand=_demand(self.case, self.qps, self.hours),
                sample=self.sample,
            )
            return Size({"all": size_fleet(fleet).replicas})
        found = {}
        for silo in _silos(self.case):
            demand = _demand(self.case, self.qps, self.hours, silo.classes)
            fleet = Fleet(name=silo.name, setups=(silo.setup,), demand=demand, sample=self.sample)
            found[silo.name] = size_fleet(fleet).replicas
        return Size(found)


@dataclass(frozen=True, slots=True)
class ForcedSilos:
    """Late shares of two silos with so many replicas, interactive first."""

    case: Case
    qps: float
    hours: float
    sizes: tuple[int, int]

    def run(self) -> dict[str, float]:
        """Simulate."""
        silos = [silo.sized(size) for silo, size in zip(_silos(self.case), self.sizes, strict=True)]
        run = simulate_silos(silos, _demand(self.case, self.qps, self.hours).requests())
        return silo_late_share(run, silos)


async def compute(desk: Desk) -> dict[str, Any]:
    """Return replicas by fleet, and the late shares of every way to split the shared number in silos."""
    hours, sample = desk.scale.fleet_hours, SAMPLES[desk.scale.name]
    shared = [SizeFleet(desk.case(TRACE, policy), QPS, hours, sample) for policy in POLICIES]
    siloed = SizeFleet(desk.case(TRACE, SILO_POLICY), QPS, hours, sample, is_silo=True)
    *sizes, silo = await desk.run([*shared, siloed])
    replicas = {policy: size.replicas["all"] for policy, size in zip(POLICIES, sizes, strict=True)}
    data = {"qps": QPS, "shared": replicas, "silo": silo.replicas, "forced": []}
    needed = list(silo.replicas.values())
    own = replicas["niyama"]
    if own is None or None in needed or len(needed) != 2:
        return data
    wanted = [size or 0 for size in needed]
    return {**data, "forced": await _forced(desk, own, wanted)}


async def _forced(desk: Desk, total: int, needed: list[int]) -> list[dict[str, Any]]:
    """Return the two splits of `total` replicas nearest to the silos' own proportion, simulated.

    Empty if there is but one replica: two silos cannot share it.
    """
    if total < 2:
        return []
    share = total * needed[0] / sum(needed)
    splits = sorted({max(1, min(total - 1, n)) for n in (math.floor(share), math.ceil(share))})
    case = desk.case(TRACE, SILO_POLICY)
    tasks = [ForcedSilos(case, QPS, desk.scale.fleet_hours, (n, total - n)) for n in splits]
    results = await desk.run(tasks)
    return [
        {"interactive": n, "batch": total - n, "late": late} for n, late in zip(splits, results, strict=True)
    ]


def _total(data: dict[str, Any]) -> int | None:
    sizes = list(data["silo"].values())
    return None if None in sizes else sum(sizes)


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw GPUs per fleet, and who is late with too few of them."""
    with page.axes(12.0, 5.0, ncols=2, width_ratios=(3, 2)) as (gpus, late):
        base, shades = 0, SILO_COLOURS
        for shade, (name, size) in zip(shades, data["silo"].items(), strict=False):
            gpus.bar(0, size or 0, 0.8, bottom=base, color=shade)
            gpus.text(
                0, base + (size or 0) / 2, f"{size} {_kind(name)}", ha="center", va="center", fontsize=9
            )
            base += size or 0
        gpus.text(0, base + 0.15, str(_total(data) or "none"), ha="center", fontsize=12, fontweight="bold")
        for place, (policy, size) in enumerate(data["shared"].items(), start=1):
            gpus.bar(place, size or 0, 0.8, color=colour(policy))
            gpus.text(
                place, (size or 0) + 0.15, str(size or "none"), ha="center", fontsize=12, fontweight="bold"
            )
        names = ["silos\n(Sarathi, FCFS)", *(f"shared,\n{title(policy)}" for policy in data["shared"])]
        gpus.set_xticks(range(len(names)), names, fontsize=9)
        gpus.set_ylabel(f"A100s for {data['qps']:g} requests/s,\nno tier > 1 % late")
        gpus.grid(axis="x", visible=False)
        gpus.set_ylim(0, 1.15 * max(base, *(size or 0 for size in data["shared"].values())))
        _draw_forced(late, data)


def _draw_forced(ax: Any, data: dict[str, Any]) -> None:
    tiers = ["all", "interactive", "batch", "background"]
    width = 0.8 / max(1, len(data["forced"]))
    for number, split in enumerate(data["forced"]):
        places = [n + (number - (len(data["forced"]) - 1) / 2) * width for n in range(len(tiers))]
        heights = [100 * split["late"].get(tier, 0.0) for tier in tiers]
        label = f"{split['interactive']} interactive + {split['batch']} batch"
        bars = ax.bar(places, heights, width * 0.92, color=SILO_COLOURS[number], label=label)
        ax.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=8, padding=1)
    ax.set_xticks(range(len(tiers)), ["all", "QoS1", "QoS2", "QoS3"])
    ax.set_ylabel("late, %")
    ax.set_title(f"silos on Niyama's {data['shared']['niyama']} GPUs", fontsize=11)
    ax.set_ylim(0, 118)
    ax.grid(axis="x", visible=False)
    if data["forced"]:
        ax.legend(fontsize=9, loc="upper left")


def _kind(silo: str) -> str:
    return "interactive" if silo == "interactive" else "batch"


def table(data: dict[str, Any]) -> Table:
    """Return replicas, and late shares of the forced silos."""
    rows = [
        [f"shared, {title(policy)}", str(size or "none"), "<= 1 % of each tier"]
        for policy, size in data["shared"].items()
    ]
    parts = " + ".join(f"{size} {_kind(name)}" for name, size in data["silo"].items())
    rows.append(["silos", f"{_total(data) or 'none'} ({parts})", "<= 1 % of each tier"])
    for split in data["forced"]:
        late = ", ".join(f"{name} {percent(share)}" for name, share in split["late"].items())
        rows.append(["silos, forced", f"{split['interactive']} interactive + {split['batch']} batch", late])
    return Table(["fleet", "A100s", "late"], rows)


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return the saving, and what too few GPUs do to the silos."""
    silo, shared = _total(data), data["shared"]["niyama"]
    if silo is None or shared is None:
        return [Finding("GPUs for 35 requests/s", "13 against 10", "no size is in time", _unsized(data))]
    saving = 1 - shared / silo
    gain = silo / shared - 1
    why = (
        f"That is {gain:+.0%} of capacity per GPU (arXiv version: +32 %) and {abs(saving):.0%} "
        f"{'fewer' if saving >= 0 else 'more'} GPUs "
        f"(paper: 23 %). The silos need {silo} here and 13 in the paper, the shared fleet {shared} and 10"
    )
    if silo < PAPER_GPUS["silo"] and shared < PAPER_GPUS["shared"]:
        why += ": the requests of the trace of 2023 are cheaper than those of 2024, for every fleet"
    others = data["shared"]
    why += (
        f". The shared fleet of the paper's policy needs {_needed(others['paper'])}, "
        f"that of EDF {_needed(others['edf'])}."
    )
    found = [
        Finding(
            "GPUs for 35 requests/s, silos against shared", "13 against 10", f"{silo} against {shared}", why
        )
    ]
    if shared < 2:
        found[0] = found[0]._replace(why=f"{why} One GPU cannot be split into two silos.")
    if data["forced"]:
        found.append(_forced_finding(data, silo, shared))
    return found


def _unsized(data: dict[str, Any]) -> str:
    """Return which fleets have no size in time."""
    missing = [f"the {_kind(name)} silo" for name, size in data["silo"].items() if size is None]
    missing += ["the shared fleet of Niyama"] if data["shared"]["niyama"] is None else []
    return f"No number of GPUs is in time for {' and '.join(missing)}."


def _needed(size: int | None) -> str:
    return "more than any number" if size is None else str(size)


def _forced_finding(data: dict[str, Any], silo: int, shared: int) -> Finding:
    late = [split["late"]["all"] for split in data["forced"]]
    ours = ", ".join(
        f"{percent(split['late']['all'])} ({split['interactive']} + {split['batch']})"
        for split in data["forced"]
    )
    missing = silo - shared
    if missing <= 0:
        why = f"The silos lack no GPU here, they need {silo} of {shared}; 3 of 13 in the paper. "
    else:
        why = (
            f"The silos lack {missing} of {silo} GPUs here ({missing / silo:.0%}), "
            "3 of 13 in the paper (23%). "
        )
    worse = sum(share >= PAPER_LATE for share in late)
    why += f"At least as many late as in the paper: {worse} of {len(late)} splits."
    return Finding("silos forced onto the shared fleet's GPUs, late", "60.4 %", ours, why)
