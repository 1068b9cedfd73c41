"""The baselines and the published policy against the artifact's own sweep windows, by its criterion."""

from __future__ import annotations

from typing import Any

from niyama.bench.plots import colour
from niyama.bench.reproduce import prefill
from niyama.bench.reproduce.cases import Case
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.page import Finding, Page, Table, title
from niyama.bench.reproduce.tasks import Found, qps_text

POLICIES = ("fcfs", "edf", "paper")
WINDOWS: dict[str, dict[str, tuple[float, float]]] = {
    "azure-code": {"fcfs": (1.45, 1.9), "edf": (2.45, 2.9), "paper": (3.55, 4.0)},
    "azure-conv": {"fcfs": (2.5, 3.1), "edf": (3.2, 3.8), "paper": (4.0, 4.6)},
    "sharegpt": {"fcfs": (1.1, 1.7), "edf": (1.5, 2.1), "paper": (1.7, 2.3)},
    "azure-conv, prefill": {"fcfs": (5.4, 6.0), "edf": (6.5, 7.1), "paper": (7.0, 7.6)},
}
"""Requests per second swept by the artifact's scripts, Llama-3-8B on one A100."""

STRETCHES = (1.1, 1.2, 1.3, 1.4, 1.5)
"""Factors on every prompt's length that are tried to explain a difference of the traces."""


def _case(desk: Desk, row: str, policy: str, **fields: Any) -> Case:
    trace, _, role = row.partition(", ")
    make = prefill.case if role else Desk.case
    return make(desk, trace, policy, criterion="artifact", **fields)


async def compute(desk: Desk) -> dict[str, Any]:
    """Return capacities beside the windows, and for traces of another year with longer prompts."""
    cells = [(row, policy) for row in WINDOWS for policy in POLICIES]
    results = await desk.run([desk.capacity(_case(desk, row, policy)) for row, policy in cells])
    found = dict(zip(cells, results, strict=True))
    rows = []
    for row in WINDOWS:
        of_policy = {policy: found[row, policy] for policy in POLICIES}
        qps = {policy: result.qps for policy, result in of_policy.items()}
        stretched = None
        if not row.startswith("sharegpt") and not _all_inside(row, qps):
            stretched = await _stretched(desk, row, qps)
        rows.append(
            {
                "row": row,
                "capacity_qps": qps,
                "capped": _capped(of_policy),
                "windows": WINDOWS[row],
                "stretched": stretched,
            }
        )
    return {"criterion": "artifact", "rows": rows}


async def _stretched(desk: Desk, row: str, qps: dict[str, float]) -> dict[str, Any]:
    """Return the capacities with prompts longer by the factor that puts most policies in their windows."""
    low, high = WINDOWS[row]["edf"]
    wanted = 2 * qps["edf"] / (low + high)
    factor = min(STRETCHES, key=lambda stretch: abs(stretch - wanted))
    cases = [_case(desk, row, policy, stretch=factor) for policy in POLICIES]
    results = await desk.run([desk.capacity(case) for case in cases])
    found = dict(zip(POLICIES, results, strict=True))
    qps = {policy: result.qps for policy, result in found.items()}
    return {"factor": factor, "capacity_qps": qps, "capped": _capped(found)}


def _capped(found: dict[str, Found]) -> list[str]:
    """Return the policies whose search ended at its ceiling."""
    return [policy for policy, result in found.items() if result.is_capped]


def _text(found: dict[str, Any], policy: str) -> str:
    return qps_text(found["capacity_qps"][policy], is_capped=policy in found["capped"])


def _inside(row: str, qps: dict[str, float]) -> list[str]:
    return [p for p in POLICIES if WINDOWS[row][p][0] <= qps[p] <= WINDOWS[row][p][1]]


def _all_inside(row: str, qps: dict[str, float]) -> bool:
    return len(_inside(row, qps)) == len(POLICIES)


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw windows as bands and our capacities as points."""
    names = {
        "azure-code": "Azure Code",
        "azure-conv": "Azure Conversation",
        "sharegpt": "ShareGPT\n(the same trace)",
        "azure-conv, prefill": "Azure Conversation,\nprefill-only",
    }
    with page.axes(11.0, 5.2) as ax:
        for place, row in enumerate(data["rows"]):
            for number, policy in enumerate(POLICIES):
                at = place + (number - 1) * 0.27
                low, high = row["windows"][policy]
                first = place == 0
                label = f"{title(policy)}: artifact's window" if first else None
                ax.bar(at, high - low, 0.22, bottom=low, color=colour(policy), alpha=0.35, label=label)
                label = "ours" if first and number == 0 else None
                ax.plot([at], [row["capacity_qps"][policy]], "D", color="black", ms=6, label=label)
                if row["stretched"] is not None:
                    label = "ours, prompts longer by the factor below" if first and number == 0 else None
                    value = row["stretched"]["capacity_qps"][policy]
                    ax.plot([at], [value], "o", color="black", mfc="white", ms=6, label=label)
        labels = [
            names[row["row"]] + ("" if row["stretched"] is None else f"\nx {row['stretched']['factor']:g}")
            for row in data["rows"]
        ]
        ax.set_xticks(range(len(labels)), labels, fontsize=10)
        ax.set_ylabel("capacity, requests/s\n(criterion artifact: TBT ignored)")
        ax.set_ylim(bottom=0)
        ax.grid(axis="x", visible=False)
        ax.legend(fontsize=9, loc="upper left")


def table(data: dict[str, Any]) -> Table:
    """Return every window."""
    rows = []
    for row in data["rows"]:
        for policy in POLICIES:
            low, high = row["windows"][policy]
            qps = row["capacity_qps"][policy]
            again = row["stretched"]
            longer = "-" if again is None else f"{_text(again, policy)} (x {again['factor']:g})"
            inside = "yes" if low <= qps <= high else f"no, {qps / (high if qps > high else low) - 1:+.0%}"
            rows.append([row["row"], title(policy), f"{low:g}-{high:g}", _text(row, policy), inside, longer])
    return Table(["trace", "policy", "artifact's window", "ours", "inside", "ours, longer prompts"], rows)


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return how many capacities lie in the artifact's windows, trace by trace, and why not."""
    return [_finding(row) for row in data["rows"]]


def _finding(row: dict[str, Any]) -> Finding:
    name, qps, again = row["row"], row["capacity_qps"], row["stretched"]
    paper = ", ".join(f"{title(p)} {low:g}-{high:g}" for p, (low, high) in row["windows"].items())
    ours = ", ".join(f"{title(p)} {_text(row, p)}" for p in qps)
    inside = _inside(name, qps)
    if len(inside) == len(POLICIES):
        why = "All inside the artifact's windows."
    else:
        outside = [title(p) for p in POLICIES if p not in inside]
        why = f"Outside: {', '.join(outside)}."
        why += " No reason found." if again is None else ""
    if row["capped"]:
        why += f" {_ceiling(row['capped'])}"
    if again is not None:
        held = [title(p) for p in _inside(name, again["capacity_qps"])]
        why += (
            f" The artifact uses the Azure traces of 2024, these are those of 2023. "
            f"With every prompt longer by {again['factor'] - 1:.0%} {', '.join(held) or 'none'} "
            f"{'lies' if len(held) == 1 else 'lie'} inside"
        )
        why += (
            ": the lengths explain the difference."
            if len(held) == len(POLICIES)
            else "; for the others no reason found."
        )
        if again["capped"]:
            why += f" With longer prompts: {_ceiling(again['capped'])}"
    return Finding(f"windows of the artifact, {name}", paper, ours, why)


def _ceiling(capped: list[str]) -> str:
    names = ", ".join(title(policy) for policy in capped)
    return f"The search for {names} ended at its ceiling, the throughput without deadlines: a lower limit."
