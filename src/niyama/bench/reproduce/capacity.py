"""Capacity of every policy on three traces and three models, fixed-chunk ones at their best chunk, too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from niyama.bench.plots import colour
from niyama.bench.reproduce.cases import MODELS, Model
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.page import Finding, Page, Table, title
from niyama.bench.reproduce.tasks import BestChunk, Capacity, Found
from niyama.scheduling.baselines import DEFAULT_CHUNK

BARS = ("fcfs", "fcfs, best chunk", "srpf", "edf", "edf, best chunk", "paper", "niyama")


def _cells(desk: Desk) -> list[tuple[Model, str]]:
    models = MODELS if desk.scale.other_hours else MODELS[:1]
    return [(model, trace) for model in models for trace in desk.traces]


def _search(desk: Desk, model: Model, trace: str, bar: str) -> Capacity:
    search = desk.capacity(desk.case(trace, _policy(bar), model=model))
    return search if model is MODELS[0] else replace(search, hours=desk.scale.other_hours)


async def compute(desk: Desk) -> dict[str, Any]:
    """Return `cells`, each with the capacities of all bars, requests per second."""
    cells = _cells(desk)
    bars = [(model, trace, bar) for model, trace in cells for bar in BARS]
    plain = [_search(desk, *bar) for bar in bars]
    best = [BestChunk(search) for search, (_, _, bar) in zip(plain, bars, strict=True) if _is_best(bar)]
    # The plain searches wait in the same queue, so that no process idles between the two rounds.
    _, chosen = await asyncio.gather(desk.run(plain), desk.run(best))
    chunks = iter(chosen)
    searches = [
        replace(search, case=replace(search.case, chunk=next(chunks))) if _is_best(bar) else search
        for search, (_, _, bar) in zip(plain, bars, strict=True)
    ]
    found = iter(await desk.run(searches))
    rows = []
    for model, trace in cells:
        of_bar = _no_worse_than_default({bar: next(found) for bar in BARS})
        rows.append(
            {
                "model": model.title,
                "trace": desk.traces[trace].title,
                "capacity_qps": {bar: result.qps for bar, result in of_bar.items()},
                "chunk": {bar: of_bar[bar].chunk or DEFAULT_CHUNK for bar in BARS if _is_best(bar)},
                "bound_qps": of_bar["niyama"].bound_qps,
            }
        )
    return {"cells": rows}


def _no_worse_than_default(of_bar: dict[str, Found]) -> dict[str, Found]:
    """Return the results, with the default's where the chunk that short runs chose serves less."""
    return {bar: max(of_bar[_policy(bar)], result, key=lambda one: one.qps) for bar, result in of_bar.items()}


def _policy(bar: str) -> str:
    return bar.partition(",")[0]


def _is_best(bar: str) -> bool:
    return "," in bar


def ratios(cells: Sequence[dict[str, Any]], bar: str, base: str) -> list[float]:
    """Return one policy's capacity over another's, where the other has any."""
    both = [(cell["capacity_qps"][bar], cell["capacity_qps"][base]) for cell in cells]
    return [ours / theirs for ours, theirs in both if theirs > 0]


def table(data: dict[str, Any]) -> Table:
    """Return capacities, with the best chunks in brackets."""
    rows = []
    for cell in data["cells"]:
        capacity, chunk = cell["capacity_qps"], cell["chunk"]
        shown = [f"{capacity[bar]:.2f}" + (f" ({chunk[bar]})" if bar in chunk else "") for bar in BARS]
        rows.append([cell["model"], cell["trace"], *shown, f"{cell['bound_qps']:.2f}"])
    return Table(["model", "trace", *BARS, "no deadlines"], rows)


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return the ratios that the paper gives, that to its policy, and who else serves more than Niyama."""
    cells = data["cells"]
    return [
        _compared(cells, "fcfs", "1.5-2.4x", 1.5, 2.4),
        _compared(cells, "edf", "1.2-1.4x", 1.2, 1.4),
        _against_paper(cells),
        _beaten(cells),
    ]


def _against_paper(cells: Sequence[dict[str, Any]]) -> Finding:
    values = ratios(cells, "niyama", "paper")
    worse = _wins(cells, "paper")
    why = f"Niyama is below the published policy in {len(worse)} of {len(cells)} combinations"
    why += f": {'; '.join(worse)}." if worse else "."
    return Finding("capacity, Niyama over the published policy", "the same policy", _span(values), why)


def _compared(cells: Sequence[dict[str, Any]], base: str, paper: str, low: float, high: float) -> Finding:
    plain = ratios(cells, "niyama", base)
    best = ratios(cells, "niyama", f"{base}, best chunk")
    own = ratios(cells, "paper", base)
    inside = sum(low <= ratio <= high for ratio in plain)
    below, above = sum(ratio < low for ratio in plain), sum(ratio > high for ratio in plain)
    why = f"{inside} of {len(plain)} combinations lie in the paper's range, {below} below, {above} above. "
    why += f"The paper's own policy, here: {_span(own)}. "
    why += f"Given its best fixed chunk, {title(base)} "
    fell = best != plain and all(after <= before for after, before in zip(best, plain, strict=True))
    why += f"comes closer: {_span(best)}." if fell else f"comes no closer: {_span(best)}."
    why += _out_of_reach(cells, base, low)
    return Finding(f"capacity, Niyama over {title(base)} (chunk 256)", paper, _span(plain), why)


def _out_of_reach(cells: Sequence[dict[str, Any]], base: str, low: float) -> str:
    """Return on how many combinations below the paper's range nobody could be inside it."""
    below = [cell for cell in cells if any(ratio < low for ratio in ratios([cell], "niyama", base))]
    if not below:
        return ""
    rooms = [cell["bound_qps"] / cell["capacity_qps"][base] for cell in below]
    shut = [room for room in rooms if room < low]
    open_rooms = [room for room in rooms if room >= low]
    text = ""
    if shut:
        text += (
            f" On {len(shut)} of the {len(below)} below nobody could be inside: the throughput that is "
            f"possible without deadlines is {_span(shut)} {title(base)}."
        )
    if open_rooms:
        text += (
            f" On {len(open_rooms)} of the {len(below)} below the throughput that is possible without "
            f"deadlines, {_span(open_rooms)} {title(base)}, would allow it: there it is no reason."
        )
    return text


def _beaten(cells: Sequence[dict[str, Any]]) -> Finding:
    """Return where, and by how much, a baseline serves more than Niyama."""
    wins = {bar: _wins(cells, bar) for bar in BARS if bar not in ("paper", "niyama")}
    wins = {_bar_title(bar): some for bar, some in wins.items() if some}
    claim = "capacity, baselines that serve more than Niyama"
    if not wins:
        return Finding(claim, "none", "none", f"On none of {len(cells)} combinations.")
    ours = ", ".join(f"{name} on {len(some)} of {len(cells)}" for name, some in wins.items())
    return Finding(
        claim, "none", ours, " ".join(f"{name}: {'; '.join(some)}." for name, some in wins.items())
    )


def _wins(cells: Sequence[dict[str, Any]], bar: str) -> list[str]:
    """Return the combinations on which a bar, and not its policy by default, is above Niyama."""
    return [
        f"{cell['model']} on {cell['trace']} {qps:.2f} against {own:.2f} ({_more(qps, own)})"
        for cell in cells
        if (qps := cell["capacity_qps"][bar]) > (own := cell["capacity_qps"]["niyama"])
        and not (_is_best(bar) and qps == cell["capacity_qps"][_policy(bar)])
    ]


def _more(qps: float, own: float) -> str:
    return f"{qps / own - 1:+.1%}" if own > 0 else "Niyama none"


def _bar_title(bar: str) -> str:
    name, _, rest = bar.partition(",")
    return title(name) + (f" at its{rest}" if rest else "")


def _span(values: Sequence[float]) -> str:
    if not values:
        return "none"
    return f"{min(values):.2f}-{max(values):.2f}x"


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw grouped bars, a panel per model; the dashed line is the throughput without deadlines."""
    models = list(dict.fromkeys(cell["model"] for cell in data["cells"]))
    with page.axes(3.2 + 3.6 * max(2, len(models)), 5.2, ncols=len(models), squeeze=False) as axes:
        for ax, model in zip(axes[0], models, strict=True):
            cells = [cell for cell in data["cells"] if cell["model"] == model]
            _panel(ax, model, cells)
        axes[0][0].set_ylabel("capacity, requests/s\n(no tier > 1 % late)")
        axes[0][0].figure.legend(
            *axes[0][0].get_legend_handles_labels(),
            loc="outside right upper",
            fontsize=9,
        )


def _panel(ax: Any, model: str, cells: Sequence[dict[str, Any]]) -> None:
    width = 0.8 / len(BARS)
    for number, bar in enumerate(BARS):
        name = bar.split(",")[0]
        places = [place + (number - (len(BARS) - 1) / 2) * width for place in range(len(cells))]
        style: dict[str, Any] = {"color": colour(name)}
        if "," in bar:
            style = {"facecolor": "white", "edgecolor": colour(name), "hatch": "////", "linewidth": 1.0}
        label = title(name) + (", best chunk" if "," in bar else "")
        ax.bar(places, [cell["capacity_qps"][bar] for cell in cells], width * 0.92, label=label, **style)
    for place, cell in enumerate(cells):
        limit = "throughput without deadlines" if place == 0 else None
        ax.plot(
            [place - 0.42, place + 0.42], [cell["bound_qps"]] * 2, color="black", ls="--", lw=1, label=limit
        )
        (gain,) = ratios([cell], "niyama", "fcfs") or [0.0]
        (over_edf,) = ratios([cell], "niyama", "edf") or [0.0]
        ax.annotate(
            f"{gain:.2f}x FCFS\n{over_edf:.2f}x EDF",
            (place, cell["bound_qps"]),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    ax.set_title(model, fontsize=11)
    ax.set_xticks(range(len(cells)), [cell["trace"] for cell in cells], fontsize=9)
    ax.set_ylim(0, 1.18 * max(cell["bound_qps"] for cell in cells))
    ax.grid(axis="x", visible=False)
