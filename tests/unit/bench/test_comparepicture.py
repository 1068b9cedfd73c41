"""The picture of a comparison: drawn from whatever was run, the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.bench.comparisons import result, row

from niyama.bench.comparepicture import draw_knees, draw_late, save_picture
from niyama.bench.findings import group
from niyama.bench.plots import figure

KNEES: dict[str, dict[str, Any]] = {
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


def test_bars_of_invalid_runs_and_knees_are_hatched_and_it_is_said() -> None:
    runs = [row(policy, late={"a": 0.3}, valid=policy == "niyama") for policy in KNEES]
    knees = {name: {**knee, "valid": name == "niyama"} for name, knee in KNEES.items()}
    with figure(ncols=2) as (_, (late, knee)):
        draw_late(late, group(runs), list(KNEES))
        draw_knees(knee, knees, list(KNEES))
        for axes in (late, knee):
            assert [bool(bar.get_hatch()) for bar in axes.patches] == [True, False]
            assert axes.get_title(loc="left") == "hatched: INVALID, does not count"
    with figure() as (_, axes):
        draw_knees(axes, KNEES, list(KNEES))
        assert not axes.get_title(loc="left")


def test_shortened_runs_are_said_to_be(tmp_path: Path) -> None:
    runs = [row("niyama", late={"a": 0.3})]
    assert drawn(tmp_path, runs) != drawn(tmp_path, runs, shortened=True)
