"""The picture of a comparison: drawn from whatever was run, the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.bench.comparisons import result, row

from niyama.bench.comparepicture import save_picture

KNEES = {
    "vllm-fcfs": {"load": 0.5, "qps": 5.0, "chunk": 256},
    "niyama": {"load": 1.0, "qps": 10.0, "chunk": None},
}


def drawn(folder: Path, runs: list[dict[str, Any]], **more: Any) -> bytes | None:
    path = folder / "picture.png"
    path.unlink(missing_ok=True)
    return path.read_bytes() if save_picture(result(runs, **more), path) else None


def test_late_shares_and_knees_are_drawn_as_far_as_they_are_known(tmp_path: Path) -> None:
    runs = [row(policy, load=load, late={"a": 0.3, "b": 0.0}) for policy in KNEES for load in (0.85, 1.3)]
    both = drawn(tmp_path, runs, knees=KNEES)
    assert both is not None
    assert both.startswith(b"\x89PNG")
    assert both == drawn(tmp_path, runs, knees=KNEES)
    assert drawn(tmp_path, runs) not in (None, both)
    assert drawn(tmp_path, runs[:3]) is not None, "a server that was not run at a load"
    only_knees = drawn(tmp_path, [], knees=KNEES, policies=list(KNEES))
    assert only_knees not in (None, both)


def test_other_scenarios_alone_give_no_picture(tmp_path: Path) -> None:
    assert drawn(tmp_path, [row("niyama", "alone")]) is None
    assert not (tmp_path / "picture.png").exists()
