"""Every figure by name. Adding one is a module and an entry here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from niyama.bench.reproduce import (
    ablation,
    alpha,
    capacity,
    chunks,
    fidelity,
    fleet,
    load,
    overload,
    prefill,
    square,
)
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.page import Finding, Page, Table
from niyama.bench.reproduce.scale import Scale, model_lengths, per_run, two_lengths

Data = dict[str, Any]


class Figure(NamedTuple):
    """A figure: compute, then say and draw what was computed.

    Attributes:
        name: On the command line, and of the file.
        title: Above the picture.
        traces: Names of the traces that it uses.
        lengths: How long its runs are at a scale, for its caption.
        compute: Returns plain data, fit for JSON.
        table: The numbers.
        findings: The paper's numbers beside ours.
        draw: Writes the picture.
    """

    name: str
    title: str
    traces: tuple[str, ...]
    lengths: Callable[[Scale], str]
    compute: Callable[[Desk], Awaitable[Data]]
    table: Callable[[Data], Table]
    findings: Callable[[Data], list[Finding]]
    draw: Callable[[Data, Page], None]


CODE = ("azure-code",)
TWO = ("azure-code", "sharegpt")
ALL = ("azure-code", "azure-conv", "sharegpt")


def _capacity_hours(scale: Scale) -> str:
    return per_run(scale.capacity_hours)


def _load_hours(scale: Scale) -> str:
    return per_run(scale.load_hours)


FIGURES = (
    Figure(
        "capacity",
        "Capacity by policy, trace and model",
        ALL,
        model_lengths,
        capacity.compute,
        capacity.table,
        capacity.findings,
        capacity.draw,
    ),
    Figure(
        "fidelity",
        "Baselines and published policy against the artifact's sweep windows",
        ALL,
        _capacity_hours,
        fidelity.compute,
        fidelity.table,
        fidelity.findings,
        fidelity.draw,
    ),
    Figure(
        "fleet",
        "GPUs for 35 requests/s of Azure Code: silos or one shared fleet",
        CODE,
        lambda scale: per_run(scale.fleet_hours),
        fleet.compute,
        fleet.table,
        fleet.findings,
        fleet.draw,
    ),
    Figure(
        "prefill",
        "Prefill-only nodes (paper, Figure 8)",
        ALL,
        _capacity_hours,
        prefill.compute,
        prefill.table,
        prefill.findings,
        prefill.draw,
    ),
    Figure(
        "latency",
        "Latency of each tier against load (paper, Figure 10)",
        CODE,
        _load_hours,
        load.compute_latency,
        load.table_latency,
        load.findings_latency,
        load.draw_latency,
    ),
    Figure(
        "late",
        "Late requests by prompt length against load (paper, Figure 11)",
        CODE,
        _load_hours,
        load.compute_late,
        load.table_late,
        load.findings_late,
        load.draw_late,
    ),
    Figure(
        "overload",
        "Late requests at 50 % above capacity",
        ALL,
        two_lengths,
        overload.compute,
        overload.table,
        overload.findings,
        overload.draw,
    ),
    Figure(
        "square",
        "Load from 2 to 5 requests/s and back every 15 minutes, 20 % of low importance",
        CODE,
        lambda scale: per_run(square.hours(scale)),
        square.compute,
        square.table,
        square.findings,
        square.draw,
    ),
    Figure(
        "chunks",
        f"Chunk sizes at {chunks.QPS:g} requests/s of Azure Code",
        CODE,
        lambda scale: per_run(chunks.HOURS),
        chunks.compute,
        chunks.table,
        chunks.findings,
        chunks.draw,
    ),
    Figure(
        "alpha",
        "Sensitivity to alpha",
        TWO,
        two_lengths,
        alpha.compute,
        alpha.table,
        alpha.findings,
        alpha.draw,
    ),
    Figure(
        "ablation",
        "What each mechanism adds",
        TWO,
        two_lengths,
        ablation.compute,
        ablation.table,
        ablation.findings,
        ablation.draw,
    ),
)
"""In the order of the results."""

ALIASES = {"fig8": "prefill", "fig10": "latency", "fig11": "late"}
"""The paper's numbers, where they are known."""


def choose(names: list[str]) -> list[Figure]:
    """Return figures by name, in the registry's order, each once; `all`, or no name, means all of them.

    Raises:
        ValueError: a name is unknown; the message lists the known ones.
    """
    by_name = {figure.name: figure for figure in FIGURES}
    wanted = {ALIASES.get(name, name) for name in names} or {"all"}
    for name in sorted(wanted - {"all"}):
        if name not in by_name:
            known = ", ".join([*by_name, *ALIASES, "all"])
            raise ValueError(f"figure: {name!r} is unknown; allowed: {known}")
    return [figure for figure in FIGURES if "all" in wanted or figure.name in wanted]
