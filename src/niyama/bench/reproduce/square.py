"""A square wave between 2 and 5 requests/s, one in five requests of low importance."""

from __future__ import annotations

from typing import Any

from niyama.bench.plots import colour
from niyama.bench.reproduce.desk import POLICIES, Desk
from niyama.bench.reproduce.page import Finding, Page, Table, line, percent, title
from niyama.bench.reproduce.scale import Scale
from niyama.bench.reproduce.tasks import Load

LOW_QPS, HIGH_QPS, HALF_PERIOD_S, LOW_SHARE = 2.0, 5.0, 900.0, 0.2
HOURS = 4.0
WINDOW_S = 300.0
TRACE = "azure-code"
PAPER_LATE = 0.0875


def hours(scale: Scale) -> float:
    """Return the length of the run: one period in a quick one."""
    return HOURS if scale.name == "full" else 2 * HALF_PERIOD_S / 3600


async def compute(desk: Desk) -> dict[str, Any]:
    """Return late shares of all, of the important and of the others, and over time, by policy."""
    num_hours = hours(desk.scale)
    wave = f"square:{LOW_QPS:g}:{HIGH_QPS:g}:{HALF_PERIOD_S:g}"
    tasks = [
        Load(
            desk.case(TRACE, policy, arrivals=wave, low_share=LOW_SHARE),
            (LOW_QPS + HIGH_QPS) / 2,
            num_hours,
            WINDOW_S,
        )
        for policy in POLICIES
    ]
    outcomes = await desk.run(tasks)
    return {
        "hours": num_hours,
        "window_s": WINDOW_S,
        "policies": {
            policy: {
                "all": outcome.late["all"],
                "important": outcome.late_by_importance.get("normal", 0.0),
                "low": outcome.late_by_importance.get("low", 0.0),
                "timeline": outcome.timeline,
            }
            for policy, outcome in zip(POLICIES, outcomes, strict=True)
        },
    }


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw late shares over time, and by importance."""
    with page.axes(13.0, 5.0, ncols=2, width_ratios=(3, 2)) as (over_time, bars):
        num_hours = data["hours"]
        for start in range(1, round(num_hours * 3600 / HALF_PERIOD_S), 2):
            high = over_time.axvspan(
                start * HALF_PERIOD_S / 60, (start + 1) * HALF_PERIOD_S / 60, color="#e9e4d8", zorder=0, lw=0
            )
        high.set_label(f"{HIGH_QPS:g} requests/s (else {LOW_QPS:g})")
        for policy, shares in data["policies"].items():
            minutes = [(n + 0.5) * data["window_s"] / 60 for n in range(len(shares["timeline"]))]
            style = {**line(policy), "marker": "", "linestyle": "-"}
            over_time.plot(minutes, [100 * share for share in shares["timeline"]], **style)
        over_time.set_xlabel("minutes")
        over_time.set_ylabel("late among those arriving, %")
        over_time.set_xlim(0, num_hours * 60)
        over_time.set_ylim(0, 128)
        over_time.set_yticks([0, 20, 40, 60, 80, 100])
        over_time.legend(fontsize=9, ncols=3, loc="upper left")
        _bars(bars, data["policies"])


def _bars(ax: Any, policies: dict[str, Any]) -> None:
    groups = {"important": "important\n(80 %)", "low": "low importance\n(20 %)", "all": "all"}
    width = 0.8 / len(policies)
    for number, (policy, shares) in enumerate(policies.items()):
        places = [n + (number - (len(policies) - 1) / 2) * width for n in range(len(groups))]
        heights = [100 * shares[group] for group in groups]
        drawn = ax.bar(places, heights, width * 0.92, color=colour(policy), label=title(policy))
        ax.bar_label(drawn, [f"{height:.1f}" for height in heights], fontsize=7.5, padding=1)
    ax.set_xticks(range(len(groups)), list(groups.values()))
    ax.set_ylabel("late, %")
    ax.margins(y=0.1)
    ax.grid(axis="x", visible=False)


def table(data: dict[str, Any]) -> Table:
    """Return late shares by importance."""
    rows = [
        [title(policy), *(percent(shares[group]) for group in ("important", "low", "all"))]
        for policy, shares in data["policies"].items()
    ]
    return Table(["policy", "late, important", "late, low importance", "late, all"], rows)


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return the claim on the diurnal overload."""
    niyama, paper = data["policies"]["niyama"], data["policies"]["paper"]
    ours = f"{percent(niyama['important'])} of important, {percent(niyama['all'])} overall"
    better = niyama["all"] < PAPER_LATE
    why = (
        f"{'No' if niyama['important'] == 0 else 'Some'} important request is late, and overall "
        f"{'fewer' if better else 'more'} than the paper reports. "
        "The published policy as its artifact has it, which knows no importance, has "
        f"{percent(paper['all'])} late here"
    )
    if paper["all"] < PAPER_LATE:
        why += ", so part of the difference to the paper lies in the trace, which is of 2023"
    if paper["all"] < niyama["all"]:
        why += "; Niyama sets more of the unimportant aside than this load would need"
    why += "."
    return [
        Finding(
            "2 to 5 requests/s and back, 20 % of low importance, late",
            "0 % of important, 8.75 % overall",
            ours,
            why,
        )
    ]
