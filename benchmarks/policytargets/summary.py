"""The parts that were found so far, as one Markdown page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from niyama.bench.reproduce.cases import Trace
from policytargets.trials import code
from policytargets.verdict import Part

PAGE = "policy.md"


def keep(out: Path, name: str, part: Part, setup: str) -> None:
    """Write what a part found, with the code and the set-up that found it."""
    record = {"code": code("niyama"), "setup": setup, **part.record()}
    (out / f"part-{name}.json").write_text(json.dumps(record, indent=1))


def setup_line(traces: dict[str, Trace], shorten: float) -> str:
    """Return where the lengths come from and how long the runs are."""
    origins = "; ".join(f"{trace.title}: {trace.origin}" for trace in traces.values())
    short = "" if shorten == 1 else f" Runs {shorten:g} times shorter than they should be: only a look."
    return f"One A100, Llama-3-8B. {origins}.{short}"


def write(out: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Write the page from the parts in the folder, in the order of `names`; return these parts."""
    paths = [out / f"part-{name}.json" for name in names]
    parts = [json.loads(path.read_text()) for path in paths if path.exists()]
    targets = [target for part in parts for target in part["targets"]]
    num_met = sum(target["is_met"] for target in targets)
    lines = ["# The policy's targets in the simulator", ""]
    lines += [*dict.fromkeys(part["setup"] for part in parts), ""]
    lines += [f"{num_met} of {len(targets)} targets are met.", ""]
    missed = [target for target in targets if not target["is_met"]]
    if missed:
        lines += ["## Missed", ""]
        lines += _table(["target", "bound", "found"], [[t["text"], t["bound"], t["found"]] for t in missed])
    for part in parts:
        lines += _part(part)
    (out / PAGE).write_text("\n".join(lines))
    return parts


def _part(part: dict[str, Any]) -> list[str]:
    lines = [f"## {part['title']}", ""]
    if part["code"] != code("niyama"):
        lines += ["Found with another state of the code.", ""]
    rows = [[t["text"], t["bound"], t["found"], "met" if t["is_met"] else "MISSED"] for t in part["targets"]]
    lines += _table(["target", "bound", "found", ""], rows)
    for table in part["tables"]:
        lines += _table(table["headers"], table["rows"])
    return lines


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]
