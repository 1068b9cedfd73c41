"""Half as much again as the capacity: who is late, and how many."""

from __future__ import annotations

from typing import Any

from niyama.bench.plots import colour
from niyama.bench.reproduce.desk import POLICIES, Desk
from niyama.bench.reproduce.page import Finding, Page, Table, percent, title
from niyama.bench.reproduce.tasks import Capacity, Load

FACTOR = 1.5
BASES = ("edf", "niyama")
"""Whose capacity is exceeded: that of the best baseline, and Niyama's own."""


async def compute(desk: Desk) -> dict[str, Any]:
    """Return `runs`: trace, whose capacity, load, bound, and the late share of every policy."""
    cells = [(trace, base) for trace in desk.traces for base in BASES]
    searches: list[Capacity] = [desk.capacity(desk.case(trace, base)) for trace, base in cells]
    found = await desk.run(searches)
    tasks = [
        Load(desk.case(trace, policy), round(FACTOR * capacity.qps, 3), desk.scale.load_hours)
        for (trace, _), capacity in zip(cells, found, strict=True)
        for policy in POLICIES
    ]
    outcomes = iter(await desk.run(tasks))
    runs = []
    for (trace, base), capacity in zip(cells, found, strict=True):
        late = {policy: next(outcomes).late["all"] for policy in POLICIES}
        load = {"trace": desk.traces[trace].title, "over": base, "qps": round(FACTOR * capacity.qps, 3)}
        runs.append({**load, "bound_qps": capacity.bound_qps, "late": late})
    return {"factor": FACTOR, "runs": runs}


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw late shares, a panel per capacity that is exceeded."""
    with page.axes(13.0, 5.0, ncols=len(BASES), sharey=True) as axes:
        for ax, base in zip(axes, BASES, strict=True):
            runs = [run for run in data["runs"] if run["over"] == base]
            width = 0.8 / len(POLICIES)
            for number, policy in enumerate(POLICIES):
                places = [n + (number - (len(POLICIES) - 1) / 2) * width for n in range(len(runs))]
                heights = [100 * run["late"][policy] for run in runs]
                bars = ax.bar(places, heights, width * 0.92, color=colour(policy), label=title(policy))
                ax.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=7.5, padding=1)
            labels = [
                f"{run['trace']}\n{run['qps']:.2f}/s = {run['qps'] / run['bound_qps']:.0%} of bound"
                for run in runs
            ]
            ax.set_xticks(range(len(runs)), labels, fontsize=9)
            ax.axhline(5.0, color="#d1495b", lw=1.2, ls=(0, (1, 1)), label="paper: under 5 %")
            ax.set_title(f"{FACTOR:g} x the capacity of {title(base)}", fontsize=11)
            ax.grid(axis="x", visible=False)
        axes[0].set_ylabel("late requests, %")
        axes[0].set_ylim(0, 124)
        axes[0].legend(fontsize=9, ncols=3, loc="upper left", columnspacing=1.0)


def table(data: dict[str, Any]) -> Table:
    """Return every run."""
    rows = [
        [
            run["trace"],
            f"{FACTOR:g} x {title(run['over'])}",
            f"{run['qps']:.2f}",
            f"{run['qps'] / run['bound_qps']:.0%}",
            *(percent(run["late"][policy]) for policy in POLICIES),
        ]
        for run in data["runs"]
    ]
    return Table(
        ["trace", "load", "requests/s", "of the bound", *(f"late, {title(p)}" for p in POLICIES)], rows
    )


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return the two claims on overload."""
    runs = data["runs"]
    in_time = {base: [1 - run["late"]["niyama"] for run in runs if run["over"] == base] for base in BASES}
    ours = "; ".join(
        f"{FACTOR:g} x {title(base)}: {_range(shares)} in time" for base, shares in in_time.items()
    )
    held = {base: sum(share > 0.95 for share in shares) for base, shares in in_time.items()}
    loads = [run["qps"] / run["bound_qps"] for run in runs if run["over"] == "niyama"]
    why = (
        "The paper does not say whose capacity is exceeded. "
        f"Over EDF's the claim holds on {held['edf']} of {len(in_time['edf'])} traces"
        f", over Niyama's own on {held['niyama']} of {len(in_time['niyama'])}. "
    )
    if held["niyama"] < len(in_time["niyama"]) and min(loads) > 1:
        why += (
            f"Over Niyama's own the load is {_range(loads)} of the throughput that is possible without any "
            "deadline, so that work piles up whoever schedules, and late requests grow with the run's length."
        )
    return [
        Finding("in time at 50 % overload", "> 95 %", ours, why),
        _magnitude(runs),
    ]


def _magnitude(runs: list[dict[str, Any]]) -> Finding:
    bases = ("fcfs", "edf")
    some = [run["late"] for run in runs if run["late"]["niyama"] > 0]
    fewer = {base: [late[base] / late["niyama"] for late in some] for base in bases}
    ours = ", ".join(f"{title(base)} {_times(values)}" for base, values in fewer.items())
    pairs = [(late[base] / late["niyama"], base, late["niyama"]) for late in some for base in bases]
    why = ""
    if len(some) < len(runs):
        why = f"On {len(runs) - len(some)} of {len(runs)} runs nobody is late under Niyama. "
    if pairs:
        why += _smallest(*min(pairs))
    claim = "times as many late as Niyama, at these loads"
    return Finding(claim, "an order of magnitude", ours, why.strip())


def _smallest(factor: float, base: str, late: float) -> str:
    """Return what the smallest factor means, with the late share of Niyama in the same run."""
    if factor >= 10:
        return "At least ten times as many wherever somebody is late under Niyama."
    text = (
        f"The smallest factor here is {factor:.1f}, by {title(base)}, where Niyama has {percent(late)} late"
    )
    if factor < 1:
        return text + f": more than {title(base)}."
    return text + (": beyond 10 % ten times as many is more than there are." if late > 0.1 else ".")


def _range(shares: list[float]) -> str:
    return f"{min(shares):.1%} to {max(shares):.1%}"


def _times(values: list[float]) -> str:
    return f"{min(values):.1f}-{max(values):.1f}x" if values else "nobody late under Niyama"
