"""How a replay is shown: a table for people, and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from niyama.bench.plots import colour, figure, save_png
from niyama.bench.replay import Replayed
from niyama.bench.score import Judged

SAME_MACHINE = 0.05
"""A profile that misses a run's own steps by more, in sum, is not of the machine as it was then."""

_ROWS = (("TTFT", "ttft_s"), ("TBT", "tbt_s"), ("TTLT", "ttlt_s"))


def describe(report: Mapping[str, Any]) -> str:
    """Return the report of a replay as a table."""
    real, twin, error = report["measured"], report["simulated"], report["error"]
    lines = [
        f"{report['run']}: {report['requests']} requests, policy {report['policy']}, "
        f"profile {report['profile']}, mean of {report['repeats']} simulations",
        "",
        f"{'':24}{'MEASURED':>12}{'SIMULATED':>12}{'ERROR':>9}",
    ]
    for name in real["attainment"]["strict"]:
        values = (figures["attainment"]["strict"][name] for figures in (real, twin, error))
        lines.append(_line(f"in time, {name}", values, "{:.1%}", "{:+.1%}"))
    for label, metric in _ROWS:
        for percent in real[metric]["all"]:
            values = (figures[metric]["all"][percent] for figures in (real, twin, error))
            lines.append(_line(f"{label} {percent}", values, "{:.3f} s", "{:+.1%}"))
    for label, key in (("steps", "steps"), ("tokens of a step, mean", "mean_batch")):
        lines.append(_line(label, (f[key] for f in (real, twin, error)), "{:.1f}", "{:+.1%}"))
    for key in real["chunk_tokens"]:
        values = (figures["chunk_tokens"][key] for figures in (real, twin, error))
        lines.append(_line(f"prefill of a step, {key}", values, "{:.0f}", "{:+.1%}"))
    if report["left_out"]:
        lines.append(f"{report['left_out']} requests without a token are left out")
    lines.append("Errors of shares in time are differences, all others relative.")
    bias, speed = report["steps_against_profile"]["all"]["bias_share"], report["own_speed"]
    if speed is not None:
        lines.append(
            f"At the machine's own speed: in windows of {speed['window_s']:g} s its steps took "
            f"{speed['fastest']:.2f} to {speed['slowest']:.2f} times as long as the profile says."
        )
    elif bias is not None and abs(bias) > SAME_MACHINE:
        lines.append(
            f"The profile takes this run's steps for {abs(bias):.0%} {'longer' if bias > 0 else 'shorter'} "
            "than they were: another machine, or a disturbed one. --own-speed leaves that out."
        )
    return "\n".join([*lines, ""])


def describe_parity(parity: Mapping[str, Any]) -> str:
    """Return what `niyama.bench.parity.Parity.to_mapping` says, in words."""
    lines = [
        f"decision parity: {parity['plans_same']} of {parity['plans']} plans are made again, "
        f"{parity['plans_different']} differ",
        f"realised otherwise than planned: {parity['steps_realised_otherwise']} of {parity['steps']} steps"
        + _causes(parity["realised_otherwise_by_cause"]),
    ]
    if parity["steps_unplanned"]:
        lines.append(f"{parity['steps_unplanned']} steps ran in vLLM's own order, without a plan")
    for difference in parity["first_differences"][:1]:
        fields = ", ".join(difference["fields"])
        lines.append(
            f"the first plan that differs is call {difference['call']}, in {fields}; --json has more"
        )
    return "\n".join([*lines, ""])


def draw(replayed: Replayed, path: Path) -> None:
    """Write a picture: TTFT and TTLT of every class as shares of requests, and who was in time.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    report = replayed.report
    names = [name for name in report["measured"]["attainment"]["strict"] if name != "all"]
    with figure(ncols=3, figsize=(13.0, 4.2)) as (canvas, axes):
        for axis, label, place in ((axes[0], "TTFT", 0), (axes[1], "TTLT", -1)):
            for number, name in enumerate(names):
                for answers, style in ((replayed.measured, "-"), (replayed.simulated, "--")):
                    x, y = _shares(_times(answers, name, place))
                    label_of = f"{name}, measured" if style == "-" else "simulated"
                    axis.plot(x, y, style, color=colour(name, number), label=label_of)
            axis.set(xscale="log", xlabel=f"{label}, seconds", ylabel="share of requests", ylim=(0, 1))
        axes[0].legend(fontsize=8)
        places = np.arange(len(names))
        for shift, key, alpha in ((-0.2, "measured", 1.0), (0.2, "simulated", 0.45)):
            heights = [report[key]["attainment"]["strict"][name] for name in names]
            colours = [colour(name, number) for number, name in enumerate(names)]
            axes[2].bar(places + shift, heights, 0.36, color=colours, alpha=alpha)
        axes[2].set(ylabel="share in time", ylim=(0, 1.02))
        axes[2].set_xticks(places, names)
        axes[2].set_title("strong: measured, pale: simulated", fontsize=10)
        canvas.suptitle(f"{report['run']}: measured, and simulated with {report['profile']}")
        save_png(canvas, path)


def _times(answers: Iterable[Judged], name: str, place: int) -> list[float]:
    records = (one.record for one in answers if one.record.qos_class == name)
    return [record.token_at[place] - record.due_at for record in records]


def _shares(values: Sequence[float]) -> tuple[list[float], list[float]]:
    order = sorted(values)
    return order, [(number + 1) / len(order) for number in range(len(order))]


def _line(label: str, values: Iterable[float | None], form: str, error_form: str) -> str:
    real, twin, error = values
    cells = ["-" if value is None else form.format(value) for value in (real, twin)]
    cells.append("-" if error is None else error_form.format(error))
    return f"{label:24}{cells[0]:>12}{cells[1]:>12}{cells[2]:>9}"


def _causes(causes: Mapping[str, int]) -> str:
    return ": " + ", ".join(f"{cause} {count}" for cause, count in causes.items()) if causes else ""
