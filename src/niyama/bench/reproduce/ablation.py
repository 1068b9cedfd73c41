"""What each mechanism adds: EDF, + dynamic chunking, + relegation, + hybrid priority."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from niyama.bench.plots import OTHER_COLOURS, colour
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.page import Finding, Page, Table, percent
from niyama.bench.reproduce.tasks import Load

TRACES = ("azure-code", "sharegpt")
STEPS = {
    "edf": "EDF,\nchunk 256",
    "edf+chunking": "+ dynamic\nchunking",
    "edf+chunking+relegation": "+ relegation",
    "niyama": "+ hybrid priority\n= Niyama",
}
NO_FEWER = "No mechanism makes fewer late in overload here"
OVERLOADS = (1.1, 1.25, 1.5)
"""Loads at which late requests are counted, over Niyama's capacity."""


async def compute(desk: Desk) -> dict[str, Any]:
    """Return, per trace, capacity and late shares of every step."""
    cases = [desk.case(trace, policy) for trace in TRACES for policy in STEPS]
    capacities = await desk.capacities(cases)
    width = len(STEPS)
    own = {trace: capacities[n * width + width - 1] for n, trace in enumerate(TRACES)}
    tasks = [
        Load(case, round(factor * own[case.trace.name], 3), desk.scale.load_hours)
        for case in cases
        for factor in OVERLOADS
    ]
    late = iter([done.late["all"] for done in await desk.run(tasks)])
    rows = []
    for number, case in enumerate(cases):
        row = {"trace": case.trace.title, "step": case.policy, "capacity_qps": capacities[number]}
        rows.append({**row, "late": [next(late) for _ in OVERLOADS]})
    return {"overloads": list(OVERLOADS), "rows": rows}


def _of(data: dict[str, Any], trace: str) -> list[dict[str, Any]]:
    return [row for row in data["rows"] if row["trace"] == trace]


def _traces(data: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["trace"] for row in data["rows"]))


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw capacity and late shares step by step, a row per trace."""
    colours = [colour("edf"), *OTHER_COLOURS[:2], colour("niyama")]
    traces = _traces(data)
    with page.axes(13.0, 3.2 * len(traces) + 0.8, nrows=len(traces), ncols=2, squeeze=False) as axes:
        for row, trace in zip(axes, traces, strict=True):
            steps = _of(data, trace)
            heights = [step["capacity_qps"] for step in steps]
            bars = row[0].bar(range(len(steps)), heights, 0.62, color=colours)
            gains = ["", *(f" ({b - a:+.2f})" for a, b in pairwise(heights))]
            row[0].bar_label(
                bars, [f"{h:.2f}{gain}" for h, gain in zip(heights, gains, strict=True)], fontsize=9
            )
            row[0].set_xticks(range(len(steps)), [STEPS[step["step"]] for step in steps], fontsize=9)
            row[0].set_ylabel(f"{trace}\ncapacity, requests/s")
            row[0].set_ylim(0, 1.18 * max(*heights, 0.1))
            width = 0.8 / len(steps)
            for number, step in enumerate(steps):
                places = [n + (number - (len(steps) - 1) / 2) * width for n in range(len(OVERLOADS))]
                values = [100 * share for share in step["late"]]
                label = STEPS[step["step"]].replace("\n", " ")
                drawn = row[1].bar(places, values, width * 0.92, color=colours[number], label=label)
                row[1].bar_label(drawn, [f"{value:.1f}" for value in values], fontsize=8, padding=1)
            row[1].set_xticks(range(len(OVERLOADS)), [f"{factor:g} x" for factor in OVERLOADS])
            row[1].set_ylabel("late, %")
            row[1].set_ylim(0, 118)
            for ax in row:
                ax.grid(axis="x", visible=False)
        axes[-1][1].set_xlabel("load over Niyama's capacity")
        axes[0][1].legend(fontsize=8.5, ncols=2, loc="upper left")


def table(data: dict[str, Any]) -> Table:
    """Return every step."""
    rows = [
        [row["trace"], row["step"], f"{row['capacity_qps']:.2f}", *(percent(share) for share in row["late"])]
        for row in data["rows"]
    ]
    return Table(["trace", "policy", "capacity, requests/s", *(f"late at {x:g} x" for x in OVERLOADS)], rows)


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return which mechanism brings what."""
    found = []
    for trace in _traces(data):
        steps = _of(data, trace)
        gains = [b["capacity_qps"] - a["capacity_qps"] for a, b in pairwise(steps)]
        names = ["dynamic chunking", "relegation", "hybrid priority"]
        ours = "capacity " + ", ".join(f"{gain:+.2f} {name}" for gain, name in zip(gains, names, strict=True))
        fewer = [a["late"][1] - b["late"][1] for a, b in pairwise(steps)]
        ours += f"; late at {OVERLOADS[1]:g} x: " + ", ".join(
            f"{-100 * less:+.1f} points {name}" for less, name in zip(fewer, names, strict=True)
        )
        why = (
            f"{_most(names, gains, 'Capacity comes most from', 'No mechanism adds capacity here')}. "
            f"{_most(names, fewer, 'Fewer late requests in overload come most from', NO_FEWER)}. "
            "Each mechanism is added to those before it; in another order their shares would differ."
        )
        found.append(
            Finding(f"each mechanism's share, {trace}", "chunking +20 % throughput end to end", ours, why)
        )
    return found


def _most(names: list[str], gains: list[float], some: str, none: str) -> str:
    """Return which mechanisms gain most, all of them in a tie, and whether any gains at all."""
    rounded = [round(gain, 4) for gain in gains]
    best = max(rounded)
    if best <= 0:
        return none
    return f"{some} {' and '.join(n for n, gain in zip(names, rounded, strict=True) if gain == best)}"
