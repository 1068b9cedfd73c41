"""The picture of a plan: GPUs of the silos against those of a shared fleet, one bar each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from niyama.bench.plots import OTHER_COLOURS, colour, figure, save_png

BAR_HEIGHT = 0.62


def draw_plan(plan: dict[str, Any], path: Path) -> None:
    """Write a plan, the JSON of `niyama plan`, as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    unit = "GPUs" if plan["gpus_per_replica"] else "replicas"
    num_gpus = plan["gpus_per_replica"] or 1
    names = ["silo", *plan["policies"]]
    with figure(figsize=(8.0, 1.6 + 0.55 * len(names))) as (canvas, axes):
        _silo_bar(axes, plan["silo"], num_gpus)
        for place, (name, entry) in enumerate(plan["policies"].items(), start=1):
            _bar(axes, place, entry["replicas"], num_gpus, colour(name.split("@")[0]))
        axes.set_yticks(range(len(names)), ["silos", *(f"shared, {name}" for name in plan["policies"])])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.12)
        axes.set_title(_title(plan, unit), loc="left", fontsize=12)
        if plan["silo"]["replicas"] is not None:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=3, fontsize=9)
        save_png(canvas, path)


def _title(plan: dict[str, Any], unit: str) -> str:
    head = f"{unit} for {plan['qps']:g} requests/s of {Path(plan['trace']).name}"
    head += f", at most {100 * plan['max_late']:.3g} % of a class late"
    if plan["saving"] is None:
        return head
    return f"{head}\nshared under {plan['policy']}: {plan['saving']:.0%} fewer than in silos"


def _silo_bar(axes: Any, silo: dict[str, Any], num_gpus: int) -> None:
    if silo["replicas"] is None:
        _bar(axes, 0, None, num_gpus, colour("silo"))
        return
    left = 0
    for number, part in enumerate(silo["silos"]):
        width = part["replicas"] * num_gpus
        shade = colour("silo") if number == 0 else OTHER_COLOURS[(number + 1) % len(OTHER_COLOURS)]
        label = f"silo {' + '.join(part['classes'])}, {part['policy']}"
        if part["chunk"]:
            label += f", chunk {part['chunk']}"
        axes.barh(0, width, BAR_HEIGHT, left=left, color=shade, label=label)
        axes.text(left + width / 2, 0, str(width), ha="center", va="center", color="white")
        left += width
    axes.text(left, 0, f" {left}", ha="left", va="center", weight="bold")


def _bar(axes: Any, place: int, replicas: int | None, num_gpus: int, shade: str) -> None:
    width = (replicas or 0) * num_gpus
    axes.barh(place, width, BAR_HEIGHT, color=shade)
    text = f" {width}" if replicas is not None else " no number is enough"
    axes.text(width, place, text, ha="left", va="center", weight="bold")
