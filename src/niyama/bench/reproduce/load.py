"""Latency per tier (Figure 10) and late requests by prompt length (Figure 11), against load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from niyama.bench.reproduce.cases import LONG_PROMPT_TOKENS
from niyama.bench.reproduce.desk import POLICIES, Desk
from niyama.bench.reproduce.page import Finding, Page, Table, line, percent, title
from niyama.bench.reproduce.tasks import Load, Outcome

TIERS = ("interactive", "batch", "background")
LIMIT_S = {"interactive": 6.0, "batch": 600.0, "background": 1800.0}
TRACE = "azure-code"


async def curves(desk: Desk) -> tuple[list[float], dict[str, list[Outcome]]]:
    """Return the loads, and every policy's outcome at each."""
    loads = list(desk.scale.loads)
    tasks = [
        Load(desk.case(TRACE, policy), qps, desk.scale.load_hours) for policy in POLICIES for qps in loads
    ]
    done = await desk.run(tasks)
    width = len(loads)
    return loads, {policy: done[n * width : (n + 1) * width] for n, policy in enumerate(POLICIES)}


async def compute_latency(desk: Desk) -> dict[str, Any]:
    """Return p50 and p95 by policy, tier and load: of the TTFT for QoS1, of the TTLT for the others."""
    loads, outcomes = await curves(desk)
    return {
        "loads": loads,
        "latency_s": {
            policy: {tier: [list(_latency(outcome, tier)) for outcome in series] for tier in TIERS}
            for policy, series in outcomes.items()
        },
    }


def _latency(outcome: Outcome, tier: str) -> tuple[float, float]:
    return (outcome.ttft_s if tier == "interactive" else outcome.ttlt_s)[tier]


def draw_latency(data: dict[str, Any], page: Page) -> None:
    """Draw a panel per tier and percentile; the dotted line is what was promised."""
    with page.axes(13.0, 7.0, nrows=2, ncols=3, sharex=True) as axes:
        for row, percentile in enumerate(("p50", "p95")):
            for ax, tier in zip(axes[row], TIERS, strict=True):
                for policy, series in data["latency_s"].items():
                    ax.plot(data["loads"], [pair[row] for pair in series[tier]], **line(policy))
                ax.axhline(LIMIT_S[tier], color="#d1495b", lw=1.2, ls=(0, (1, 1)))
                ax.set_yscale("log")
                if row == 0:
                    ax.set_title(title(tier), fontsize=11)
            kind = "TTFT (QoS1) or TTLT"
            axes[row][0].set_ylabel(f"{percentile} of {kind}, s")
        axes[0][0].legend(fontsize=9)
        for ax in axes[1]:
            ax.set_xlabel("requests/s")
        axes[1][2].annotate(
            "promised",
            (data["loads"][0], LIMIT_S["background"]),
            xytext=(0, 4),
            textcoords="offset points",
            color="#d1495b",
            fontsize=9,
        )


def table_latency(data: dict[str, Any]) -> Table:
    """Return p50 / p95 of every tier."""
    rows = []
    for policy, series in data["latency_s"].items():
        for number, qps in enumerate(data["loads"]):
            pairs = [series[tier][number] for tier in TIERS]
            rows.append([title(policy), f"{qps:g}", *(f"{p50:.2f} / {p95:.2f}" for p50, p95 in pairs)])
    return Table(["policy", "requests/s", *(f"{title(tier)}: p50 / p95, s" for tier in TIERS)], rows)


def held_qps(loads: Sequence[float], values: Sequence[float], limit: float) -> float:
    """Return the highest load up to which all values are within a limit; 0 if none."""
    held = 0.0
    for qps, value in zip(loads, values, strict=True):
        if value > limit:
            break
        held = qps
    return held


def findings_latency(data: dict[str, Any]) -> list[Finding]:
    """Return up to which load the p95 of every tier is as promised."""
    loads = data["loads"]
    held = {
        policy: min(held_qps(loads, [p95 for _, p95 in series[tier]], LIMIT_S[tier]) for tier in TIERS)
        for policy, series in data["latency_s"].items()
    }
    ours = ", ".join(f"{title(policy)} {qps:g}" for policy, qps in held.items())
    best_other = max(held[policy] for policy in ("fcfs", "srpf", "edf"))
    relation = "above" if held["niyama"] > best_other else "not above"
    why = (
        f"On this grid of loads Niyama's {held['niyama']:g} requests/s is {relation} the best baseline's "
        f"{best_other:g}. The paper draws curves and names no number; compared is the order of the policies."
    )
    return [Finding("p95 of all three tiers as promised up to, requests/s", "Niyama the furthest", ours, why)]


# Figure 11 ---------------------------------------------------------------------------------------

GROUPS = ("all", "short", "long")


async def compute_late(desk: Desk) -> dict[str, Any]:
    """Return late shares by policy, group of prompts and load."""
    loads, outcomes = await curves(desk)
    return {
        "loads": loads,
        "long_is_over_tokens": LONG_PROMPT_TOKENS,
        "late": {
            policy: {
                "all": [outcome.late["all"] for outcome in series],
                "short": [outcome.late_by_length["short"] for outcome in series],
                "long": [outcome.late_by_length["long"] for outcome in series],
            }
            for policy, series in outcomes.items()
        },
    }


def draw_late(data: dict[str, Any], page: Page) -> None:
    """Draw a panel per group of prompts."""
    names = {
        "all": "all requests",
        "short": f"prompts up to {LONG_PROMPT_TOKENS} tokens",
        "long": f"longer prompts (> {LONG_PROMPT_TOKENS})",
    }
    with page.axes(13.0, 4.8, ncols=3, sharey=True) as axes:
        for ax, group in zip(axes, GROUPS, strict=True):
            for policy, series in data["late"].items():
                ax.plot(data["loads"], [100 * share for share in series[group]], **line(policy))
            ax.axhline(1.0, color="#d1495b", lw=1.2, ls=(0, (1, 1)))
            ax.set_yscale("symlog", linthresh=1.0)
            ax.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
            ax.set_ylim(-0.1, 115)
            ax.set_title(names[group], fontsize=11)
            ax.set_xlabel("requests/s")
        axes[0].set_ylabel("late requests, %\n(linear below 1 %)")
        axes[0].legend(fontsize=9)


def table_late(data: dict[str, Any]) -> Table:
    """Return late shares of all, short and long prompts."""
    rows = [
        [title(policy), f"{qps:g}", *(percent(series[group][number]) for group in GROUPS)]
        for policy, series in data["late"].items()
        for number, qps in enumerate(data["loads"])
    ]
    return Table(["policy", "requests/s", "late, all", "short prompts", "long prompts"], rows)


def findings_late(data: dict[str, Any]) -> list[Finding]:
    """Return what SRPF does to long prompts, and who is late first."""
    loads, late = data["loads"], data["late"]
    number = len(loads) // 2
    srpf, niyama = late["srpf"], late["niyama"]
    ours = (
        f"at {loads[number]:g} requests/s SRPF: {percent(srpf['short'][number])} of short, "
        f"{percent(srpf['long'][number])} of long; Niyama: {percent(niyama['short'][number])} and "
        f"{percent(niyama['long'][number])}"
    )
    why = _starved(srpf["short"][number], srpf["long"][number], niyama["long"][number])
    number = len(loads) - 1
    short, long = niyama["short"][number], niyama["long"][number]
    why += (
        f" At {loads[number]:g} requests/s, the highest load, Niyama has {percent(niyama['all'][number])} "
        f"late in all, {percent(short)} of the short and {percent(long)} of the long"
    )
    why += ": long prompts pay first." if long > short else "."
    return [
        Finding("who is late: short or long prompts", "SRPF protects the short and loses the long", ours, why)
    ]


def _starved(short: float, long: float, niyama_long: float) -> str:
    """Return how SRPF's late shares of short and long prompts compare, and with Niyama's of the long."""
    if long > short:
        text = "As in the paper, SRPF has more of the long prompts late than of the short"
    elif long < short:
        text = "Unlike in the paper, SRPF has fewer of the long prompts late than of the short"
    else:
        text = "At this load SRPF has as many of the long prompts late as of the short"
    if long > niyama_long:
        return text + f"; Niyama has fewer of the long late ({percent(niyama_long)} against {percent(long)})."
    if long < niyama_long:
        return text + f"; Niyama has more of the long late ({percent(niyama_long)} against {percent(long)})."
    return text + "; Niyama has as many of the long late."
