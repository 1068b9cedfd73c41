"""What is written beside the pictures: `results.md` for people, `results.json` for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from niyama.bench.reproduce.page import Finding, Table
from niyama.bench.reproduce.registry import Figure


def record(figure: Figure, note: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return one figure's part of the results; the same run gives the same bytes."""
    return {
        "title": figure.title,
        "picture": f"{figure.name}.png",
        "note": note,
        "findings": [finding._asdict() for finding in figure.findings(data)],
        "data": data,
    }


def write(directory: Path, head: dict[str, Any], figures: Sequence[tuple[Figure, dict[str, Any]]]) -> None:
    """Write both files. Raises OSError."""
    parts = {figure.name: part for figure, part in figures}
    result = {**head, "figures": parts}
    (directory / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (directory / "results.md").write_text(markdown(head, figures), encoding="utf-8")


def markdown(head: dict[str, Any], figures: Sequence[tuple[Figure, dict[str, Any]]]) -> str:
    """Return the page for people: all claims first, then every figure with its numbers."""
    traces = "; ".join(f"{title}: {origin}" for title, origin in head["traces"].items())
    lines = [
        "# The paper, reproduced",
        "",
        f"`niyama reproduce`, scale {head['scale']}, seed {head['seed']}. Lengths: {traces}.",
        "A request is late by criterion `strict` unless a figure says otherwise: TTFT or TTLT missed, or a "
        "token later than a steady pace from the first one on. Capacity: the highest load at which no tier "
        "has more than 1 % late.",
    ]
    if head["scale"] == "quick":
        lines += ["", "**Quick run: short and coarse. Short runs flatter policies that cannot keep up.**"]
    lines += ["", "## Claims", ""]
    findings = [Finding(**finding) for _, part in figures for finding in part["findings"]]
    lines += rows(Table(["claim", "paper", "here", "difference"], [list(finding) for finding in findings]))
    for figure, part in figures:
        lines += ["", f"## {figure.title}", "", f"![{figure.title}]({part['picture']})", "", part["note"], ""]
        lines += rows(figure.table(part["data"]))
    return "\n".join(lines) + "\n"


def rows(table: Table) -> Iterable[str]:
    """Return a table in Markdown."""
    return [
        _row(table.header),
        _row(["---"] * len(table.header)),
        *(_row(cells) for cells in table.rows),
    ]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"
