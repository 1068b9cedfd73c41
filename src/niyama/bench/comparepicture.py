"""A comparison in one picture, for a README: who is late at which load, and how far each server goes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from niyama.bench.findings import group, late_all, mean_of, worst_class
from niyama.bench.plots import colour, figure, save_png

TITLE_WIDTH = 70
LEAST_SHOWN = 0.05
"""Per cent; a bar on a logarithmic axis needs a foot, and no late request at all stands on it."""
INVALID_COLOUR = "#a4161a"


def do_count(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all of some runs or knees are valid."""
    return all(row.get("valid", True) for row in rows)


def bar_look(rows: Iterable[Mapping[str, Any]], policy: str, number: int) -> dict[str, Any]:
    """Return how the bar of a policy looks, the `number`-th of its picture: hatched if a run is INVALID."""
    look: dict[str, Any] = {"color": colour(policy, number)}
    return look if do_count(rows) else {**look, "hatch": "xx", "edgecolor": INVALID_COLOUR, "alpha": 0.5}


def say_invalid(axes: Any, groups: Iterable[Iterable[Mapping[str, Any]]]) -> None:
    """Say what a hatched bar is, if there is one."""
    if not all(do_count(rows) for rows in groups):
        axes.set_title("hatched: INVALID, does not count", fontsize=9, color=INVALID_COLOUR, loc="left")


def save_picture(result: Mapping[str, Any], path: Path) -> bool:
    """Draw the scenario `steady` and the knees of a result; return whether there was anything to draw.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    rows = group(row for row in result["runs"] if row["scenario"] == "steady")
    parts = [("late", rows)] * bool(rows) + [("knee", result["knees"])] * bool(result["knees"])
    if not parts:
        return False
    with figure(ncols=len(parts), squeeze=False, figsize=(5.5 * len(parts), 4.2)) as (canvas, axes):
        for place, (kind, content) in zip(axes[0], parts, strict=True):
            (draw_late if kind == "late" else draw_knees)(place, content, result["policies"])
        said = f"{result['engine']['description']}; vLLM {result['versions']['vllm']}"
        said += "; SHORTENED: does not count" if result["shortened"] else ""
        canvas.suptitle(textwrap.fill(said, TITLE_WIDTH * len(parts)), fontsize=9, color="#555555")
        save_png(canvas, path)
    return True


def draw_late(
    axes: Any, rows: Mapping[tuple[str, float, str], list[Mapping[str, Any]]], policies: Sequence[str]
) -> None:
    """Draw late requests by load and server; the tick on a bar is its latest class."""
    loads = sorted({load for _, load, _ in rows})
    width = 0.8 / len(policies)
    for number, policy in enumerate(policies):
        for place, load in enumerate(loads):
            of_this = rows.get(("steady", load, policy), [])
            late, worst = mean_of(of_this, late_all), mean_of(of_this, worst_class)
            if late is None or worst is None:
                continue
            at = place + (number - (len(policies) - 1) / 2) * width
            label = policy if place == 0 else None
            look = bar_look(of_this, policy, number)
            axes.bar(at, _shown(late), 0.9 * width, label=label, **look)
            axes.hlines(_shown(worst), at - 0.45 * width, at + 0.45 * width, color="#222222", lw=1.5)
    axes.axhline(1.0, color="#a4161a", lw=1, ls="--")
    axes.set_yscale("log")
    axes.set_ylim(LEAST_SHOWN, 100.0)
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.set_xticks(range(len(loads)), [f"{load:g}" for load in loads])
    axes.set(xlabel="load (1 = what stock vLLM sustains)", ylabel="late requests (%), tick: latest class")
    say_invalid(axes, rows.values())
    axes.legend(fontsize=9)


def _shown(share: float) -> float:
    return max(LEAST_SHOWN, 100.0 * share)


def draw_knees(axes: Any, knees: Mapping[str, Mapping[str, Any]], policies: Sequence[str]) -> None:
    """Draw the highest load that keeps every class in time."""
    for number, policy in enumerate(policies):
        if policy in knees:
            load = knees[policy]["load"]
            axes.bar(number, load, 0.7, **bar_look([knees[policy]], policy, number))
            axes.text(number, load, f"{load:g}", ha="center", va="bottom", fontsize=10)
    say_invalid(axes, [knees.values()])
    axes.set_xticks(range(len(policies)), policies, rotation=20, ha="right")
    axes.set(ylabel="highest load, every class at most 1 % late")
