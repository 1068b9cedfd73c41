"""What a static alpha costs and buys, beside Niyama's, which follows the load."""

from __future__ import annotations

from typing import Any

from niyama.bench.plots import colour
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.page import Finding, Page, Table, percent
from niyama.bench.reproduce.tasks import Load

TRACES = ("azure-code", "sharegpt")
OVERLOAD = 1.25
"""The load at which late requests are counted, over Niyama's capacity."""

PUBLISHED_MS = 8.0


async def compute(desk: Desk) -> dict[str, Any]:
    """Return, per trace, capacity and late share in overload for every alpha, and for Niyama."""
    alphas = desk.scale.alphas_ms
    cases = {
        trace: [
            *(desk.case(trace, "paper", alpha_s=None if ms == PUBLISHED_MS else ms / 1000) for ms in alphas),
            desk.case(trace, "niyama"),
        ]
        for trace in TRACES
    }
    capacities = dict(
        zip(TRACES, _split(await desk.capacities([c for some in cases.values() for c in some])), strict=True)
    )
    overload = {trace: round(OVERLOAD * capacities[trace][-1], 3) for trace in TRACES}
    tasks = [Load(case, overload[trace], desk.scale.load_hours) for trace in TRACES for case in cases[trace]]
    late = dict(zip(TRACES, _split([done.late["all"] for done in await desk.run(tasks)]), strict=True))
    return {
        "alphas_ms": list(alphas),
        "traces": [
            {
                "trace": desk.traces[trace].title,
                "overload_qps": overload[trace],
                "capacity_qps": capacities[trace][:-1],
                "late": late[trace][:-1],
                "niyama_capacity_qps": capacities[trace][-1],
                "niyama_late": late[trace][-1],
            }
            for trace in TRACES
        ],
    }


def _split(values: list[float]) -> list[list[float]]:
    width = len(values) // len(TRACES)
    return [values[n * width : (n + 1) * width] for n in range(len(TRACES))]


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw capacity and late share against alpha, a column per trace."""
    alphas = data["alphas_ms"]
    places = range(len(alphas))
    with page.axes(11.0, 6.4, nrows=2, ncols=len(data["traces"]), squeeze=False, sharex=True) as axes:
        for column, found in enumerate(data["traces"]):
            top, bottom = axes[0][column], axes[1][column]
            style = {
                "color": colour("paper"),
                "marker": "o",
                "lw": 2,
                "label": "Paper's policy, static alpha",
            }
            flat = {"color": colour("niyama"), "lw": 2.4, "label": "Niyama, alpha follows the load"}
            top.plot(places, found["capacity_qps"], **style)
            top.axhline(found["niyama_capacity_qps"], **flat)
            top.set_ylim(0, 1.25 * max(*found["capacity_qps"], found["niyama_capacity_qps"], 0.1))
            top.set_title(found["trace"], fontsize=11)
            bottom.plot(places, [100 * share for share in found["late"]], **style)
            bottom.axhline(100 * found["niyama_late"], **flat)
            bottom.set_ylim(bottom=0)
            bottom.set_xticks(places, [f"{alpha:g}" for alpha in alphas])
            bottom.set_xlabel("alpha, ms per token (0: earliest deadline first)")
            bottom.set_title(f"at {found['overload_qps']:.2f} requests/s", fontsize=10)
        axes[0][0].set_ylabel("capacity, requests/s")
        axes[1][0].set_ylabel(f"late, % of all, at {OVERLOAD:g} x\nNiyama's capacity")
        axes[0][0].legend(fontsize=9, loc="lower right")


def table(data: dict[str, Any]) -> Table:
    """Return both numbers for every alpha."""
    rows = []
    for found in data["traces"]:
        for alpha, qps, late in zip(data["alphas_ms"], found["capacity_qps"], found["late"], strict=True):
            rows.append([found["trace"], f"{alpha:g} ms", f"{qps:.2f}", percent(late)])
        own = [f"{found['niyama_capacity_qps']:.2f}", percent(found["niyama_late"])]
        rows.append([found["trace"], "Niyama", *own])
    return Table(
        ["trace", "alpha", "capacity, requests/s", f"late at {OVERLOAD:g} x Niyama's capacity"], rows
    )


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return how much the choice of alpha matters."""
    return [_finding(trace, data["alphas_ms"]) for trace in data["traces"]]


def _finding(trace: dict[str, Any], alphas: list[float]) -> Finding:
    capacity = dict(zip(alphas, trace["capacity_qps"], strict=True))
    late = dict(zip(alphas, trace["late"], strict=True))
    most = max(alphas, key=lambda alpha: (capacity[alpha], -late[alpha]))
    least = min(alphas, key=lambda alpha: (late[alpha], -capacity[alpha]))
    own_qps, own_late = trace["niyama_capacity_qps"], trace["niyama_late"]
    ours = (
        f"8 ms: capacity {capacity[PUBLISHED_MS]:.2f}, late {percent(late[PUBLISHED_MS])}; "
        f"best capacity {capacity[most]:.2f} at {most:g} ms, "
        f"fewest late {percent(late[least])} at {least:g} ms; "
        f"Niyama {own_qps:.2f}, {percent(own_late)}"
    )
    if least == most:
        why = f"One alpha, {least:g} ms, is best for both here. "
    else:
        why = f"No alpha is best for both: {most:g} ms for capacity, {least:g} ms for overload. "
    why += f"Niyama, with nothing to tune, has {_than(own_late, late[least])} late than {least:g} ms"
    why += f" and serves {_than(own_qps, capacity[most], unit='requests/s')} than {most:g} ms."
    return Finding(f"sensitivity to alpha, {trace['trace']}", "8 ms/token (fixed-load runs)", ours, why)


def _than(own: float, best: float, unit: str = "points") -> str:
    """Return by how much more, or less, one number is than another: in points for shares."""
    gap = round((own - best) * (100 if unit == "points" else 1), 2)
    if gap == 0:
        return "no more"
    return f"{abs(gap):.2f} {unit} {'more' if gap > 0 else 'fewer' if unit == 'points' else 'less'}"
