"""Prefill-only nodes of a disaggregated fleet (Figure 8): steps of up to 8192 tokens, no decodes."""

from __future__ import annotations

from typing import Any

from niyama.bench.plots import colour
from niyama.bench.reproduce.cases import Case
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.page import Finding, Page, Table, title
from niyama.bench.reproduce.tasks import qps_text
from niyama.bench.reproduce.variants import PREFILL_CHUNK

POLICIES = ("fcfs", "srpf", "edf", "paper", "niyama")


def case(desk: Desk, trace: str, policy: str, **fields: Any) -> Case:
    """Return a prefill-only node; the published policy with the artifact's numbers for it."""
    name = "paper-prefill-node" if policy == "paper" else policy
    chunk = PREFILL_CHUNK if policy in ("fcfs", "srpf", "edf") else None
    return desk.case(trace, name, role="prefill", chunk=chunk, **fields)


async def compute(desk: Desk) -> dict[str, Any]:
    """Return capacities by trace."""
    searches = [desk.capacity(case(desk, trace, policy)) for trace in desk.traces for policy in POLICIES]
    found = iter(await desk.run(searches))
    rows = []
    for trace in desk.traces.values():
        of_policy = {policy: next(found) for policy in POLICIES}
        qps = {policy: result.qps for policy, result in of_policy.items()}
        capped = [policy for policy, result in of_policy.items() if result.is_capped]
        bound_qps = of_policy["niyama"].bound_qps
        rows.append({"trace": trace.title, "capacity_qps": qps, "bound_qps": bound_qps, "capped": capped})
    return {"chunk": PREFILL_CHUNK, "rows": rows}


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw grouped bars; the dashed line is the throughput without deadlines."""
    rows = data["rows"]
    with page.axes(10.0, 5.0) as ax:
        width = 0.8 / len(POLICIES)
        for number, policy in enumerate(POLICIES):
            places = [n + (number - (len(POLICIES) - 1) / 2) * width for n in range(len(rows))]
            heights = [row["capacity_qps"][policy] for row in rows]
            texts = [qps_text(row["capacity_qps"][policy], is_capped=policy in row["capped"]) for row in rows]
            bars = ax.bar(places, heights, width * 0.92, color=colour(policy), label=title(policy))
            ax.bar_label(bars, texts, fontsize=8.5, padding=1)
        for place, row in enumerate(rows):
            label = "throughput without deadlines" if place == 0 else None
            ax.plot(
                [place - 0.42, place + 0.42],
                [row["bound_qps"]] * 2,
                color="black",
                ls="--",
                lw=1,
                label=label,
            )
        ax.set_xticks(range(len(rows)), [row["trace"] for row in rows])
        ax.set_ylabel("capacity, requests/s per prefill node")
        ax.set_ylim(0, 1.25 * max(row["bound_qps"] for row in rows))
        ax.grid(axis="x", visible=False)
        ax.legend(fontsize=9, ncols=3, loc="upper left")


def table(data: dict[str, Any]) -> Table:
    """Return capacities."""
    rows = [
        [
            row["trace"],
            *(
                qps_text(row["capacity_qps"][policy], is_capped=policy in row["capped"])
                for policy in POLICIES
            ),
            f"{row['bound_qps']:.2f}",
        ]
        for row in data["rows"]
    ]
    return Table(["trace", *(title(policy) for policy in POLICIES), "no deadlines"], rows)


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return the gain over both baselines on the trace of Figure 8, by the artifact's windows."""
    (row,) = [row for row in data["rows"] if row["trace"] == "Azure Conversation"]
    qps = row["capacity_qps"]
    over = {base: qps["niyama"] / qps[base] if qps[base] else float("inf") for base in ("fcfs", "edf")}
    ours = f"{over['fcfs']:.2f}x FCFS, {over['edf']:.2f}x EDF"
    inside = 7.0 / 6.0 <= over["fcfs"] <= 7.6 / 5.4 and 7.0 / 7.1 <= over["edf"] <= 7.6 / 6.5
    why = (
        "The paper's range is that of the artifact's sweep windows for this figure (7.0-7.6 over 5.4-6.0 "
        f"and 6.5-7.1). {'Inside both.' if inside else 'Not inside both.'} "
        f"Of the throughput without deadlines EDF reaches {qps['edf'] / row['bound_qps']:.0%}, "
        f"Niyama {qps['niyama'] / row['bound_qps']:.0%}: "
        "without decodes there is no slack to spend, only the order matters."
    )
    if row["capped"]:
        why += (
            f" For {', '.join(title(policy) for policy in row['capped'])} the search ended at its ceiling, "
            f"the throughput without deadlines ({row['bound_qps']:.2f}): a run of this length may serve "
            "slightly more, so that these numbers are lower limits, and their ratios are not exact."
        )
    return [Finding("prefill-only node, Azure Conversation", "1.17-1.41x FCFS, 0.99-1.17x EDF", ours, why)]
