"""Every figure at a tiny scale: computed, told and drawn, from real simulations."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from niyama.bench.reproduce import (
    ablation,
    capacity,
    chunks,
    fidelity,
    fleet,
    load,
    overload,
    prefill,
    square,
)
from niyama.bench.reproduce.cases import find_traces
from niyama.bench.reproduce.desk import POLICIES, Desk
from niyama.bench.reproduce.lab import Lab
from niyama.bench.reproduce.page import Page
from niyama.bench.reproduce.registry import FIGURES, Figure
from niyama.bench.reproduce.results import markdown, record, rows
from niyama.bench.reproduce.run import Order, reproduce
from niyama.bench.reproduce.scale import QUICK, Scale

TINY: Scale = QUICK._replace(
    capacity_hours=0.008,
    other_hours=0.004,
    screen_hours=0.004,
    resolution=5,
    load_hours=0.01,
    fleet_hours=0.004,
    loads=(2.0, 9.0),
    alphas_ms=(0.0, 8.0),
)


@pytest.fixture(scope="module")
def lab() -> Lab:
    """One for all tests, as in a run: what several figures use is simulated once."""
    return Lab()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "HOURS", 0.01)
    monkeypatch.setattr(chunks, "SHOWN_S", (5.0, 20.0))
    monkeypatch.setattr(square, "HALF_PERIOD_S", 20.0)
    monkeypatch.setattr(square, "WINDOW_S", 10.0)
    monkeypatch.setattr("niyama.bench.reproduce.tasks.CHUNKS", (128, 512))


def computed(figure: Figure, lab: Lab) -> dict[str, Any]:
    desk = Desk(figure.name, lab, TINY, find_traces(None))

    async def run() -> dict[str, Any]:
        return await figure.compute(desk)

    return asyncio.run(run())


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_figure_is_computed_told_and_drawn(figure: Figure, tmp_path: Path) -> None:
    data = computed(figure, Lab())
    assert json.loads(json.dumps(data)) == json.loads(json.dumps(data, allow_nan=False))
    table = figure.table(data)
    assert table.rows
    assert {len(cells) for cells in table.rows} == {len(table.header)}
    for finding in figure.findings(data):
        assert all(part.strip() for part in finding)
        assert "nan" not in finding.ours
    figure.draw(data, Page(tmp_path / "a.png", figure.title, "a note"))
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_overload_is_worse_than_light_load() -> None:
    (late,) = [figure for figure in FIGURES if figure.name == "late"]
    data = computed(late, Lab())
    for policy in POLICIES:
        light, heavy = data["late"][policy]["all"]
        assert light <= heavy
    assert data["late"]["fcfs"]["all"][1] > 0.1


# The sentences follow from the numbers -----------------------------------------------------------


def cell(**capacity_qps: float) -> dict[str, Any]:
    full = {bar: capacity_qps.get(bar.replace(", best chunk", "_best"), 1.0) for bar in capacity.BARS}
    return {"model": "m", "trace": "t", "capacity_qps": full, "chunk": {}, "bound_qps": 5.0}


def test_capacity_findings_count_what_lies_in_the_papers_range() -> None:
    data = {"cells": [cell(fcfs=2.0, niyama=4.0, edf=3.5), cell(fcfs=2.0, niyama=2.2, edf=2.0)]}
    over_fcfs, over_edf, over_paper, _ = capacity.findings(data)
    assert over_fcfs.ours == "1.10-2.00x"
    assert over_fcfs.why.startswith("1 of 2 combinations lie in the paper's range, 1 below, 0 above.")
    assert "without deadlines, 2.50-2.50x FCFS, would allow it: there it is no reason" in over_fcfs.why
    assert "nobody could be inside" not in over_fcfs.why
    assert over_paper.ours == "2.20-4.00x"
    assert over_paper.why == "Niyama is below the published policy in 0 of 2 combinations."
    assert over_edf.why.startswith("0 of 2 combinations lie in the paper's range, 2 below")


def test_ratios_leave_out_who_has_no_capacity() -> None:
    assert capacity.ratios([cell(srpf=0.0, niyama=2.0), cell(srpf=1.0, niyama=3.0)], "niyama", "srpf") == [
        3.0
    ]


@pytest.mark.parametrize(
    ("late", "said"),
    [(0.01, "At least ten times as many wherever"), (0.04, "The smallest factor here is 5.0")],
)
def test_overload_findings_say_whether_it_is_an_order_of_magnitude(late: float, said: str) -> None:
    shares = {"fcfs": 0.9, "srpf": 0.1, "edf": 0.2, "paper": 0.1, "niyama": late}
    runs = [
        {"trace": "t", "over": base, "qps": 6.0, "bound_qps": 4.0, "late": shares} for base in overload.BASES
    ]
    in_time, fewer = overload.findings({"runs": runs})
    assert said in fewer.why
    assert "99.0% to 99.0% in time" in in_time.ours or "96.0% to 96.0%" in in_time.ours
    assert "holds on 1 of 1 traces, over Niyama's own on 1 of 1." in in_time.why


def test_overload_beyond_the_bound_is_explained_only_if_the_claim_fails() -> None:
    late = dict.fromkeys(POLICIES, 0.2)
    runs = [
        {"trace": "t", "over": base, "qps": 6.0, "bound_qps": 4.0, "late": late} for base in overload.BASES
    ]
    (in_time, _) = overload.findings({"runs": runs})
    assert "Over EDF's the claim holds on 0 of 1 traces" in in_time.why
    assert "150.0% to 150.0% of the throughput" in in_time.why


@pytest.mark.parametrize(
    ("important", "said"), [(0.0, "No important request is late"), (0.01, "Some important request is late")]
)
def test_square_finding_says_whether_the_important_are_late(important: float, said: str) -> None:
    shares = {"all": 0.01, "important": important, "low": 0.05, "timeline": []}
    (found,) = square.findings({"policies": {"niyama": shares, "paper": {**shares, "all": 0.2}}})
    assert found.why.startswith(f"{said}, and overall fewer than the paper reports.")
    assert "part of the difference" not in found.why
    (found,) = square.findings({"policies": {"niyama": shares, "paper": {**shares, "all": 0.001}}})
    assert "part of the difference" in found.why
    assert "sets more of the unimportant aside" in found.why


def test_fleet_finding_compares_with_the_papers_numbers() -> None:
    forced = [{"interactive": 4, "batch": 5, "late": {"all": 0.3}}]
    shared = {"fcfs": 12, "edf": 10, "paper": 9, "niyama": 9}
    data = {
        "qps": 35.0,
        "shared": shared,
        "silo": {"interactive": 6, "batch+background": 5},
        "forced": forced,
    }
    gpus, late = fleet.findings(data)
    assert gpus.ours == "11 against 9"
    assert "+22% of capacity per GPU" in gpus.why
    assert "18% fewer GPUs" in gpus.why
    assert "cheaper" in gpus.why
    assert late.ours == "30.0 % (4 + 5)"
    assert "lack 2 of 11" in late.why
    (none,) = fleet.findings({**data, "silo": {"interactive": None, "batch+background": 5}})
    assert none.ours == "no size is in time"


def test_fidelity_finding_names_who_is_outside() -> None:
    row: dict[str, Any] = {
        "row": "azure-code",
        "capacity_qps": {"fcfs": 1.5, "edf": 3.0, "paper": 3.6},
        "capped": [],
        "windows": fidelity.WINDOWS["azure-code"],
        "stretched": {
            "factor": 1.2,
            "capacity_qps": {"fcfs": 1.5, "edf": 2.5, "paper": 3.6},
            "capped": [],
        },
    }
    (found,) = fidelity.findings({"rows": [row]})
    assert found.why.startswith("Outside: EDF.")
    assert "longer by 20%" in found.why
    assert "the lengths explain the difference" in found.why
    row["stretched"] = None
    row["capacity_qps"] = {"fcfs": 1.5, "edf": 2.5, "paper": 3.6}
    (found,) = fidelity.findings({"rows": [row]})
    assert found.why == "All inside the artifact's windows."


def test_held_load_ends_at_the_first_that_is_not() -> None:
    assert load.held_qps([1, 2, 3, 4], [0.1, 0.2, 9.0, 0.2], 1.0) == 2
    assert load.held_qps([1, 2], [9.0, 0.1], 1.0) == 0.0


def test_chunk_speedup_is_the_profiles() -> None:
    """(14.936 + 256 * 0.0813) ms / 256 over (5.004 + 2552 * 0.0958) ms / 2552."""
    assert chunks.profile_speedup() == pytest.approx(1.43, abs=0.01)


def test_ablation_gains_add_up() -> None:
    steps = [
        {"trace": "t", "step": step, "capacity_qps": qps, "late": [0.0, late, 0.0]}
        for step, qps, late in zip(ablation.STEPS, (3.0, 3.5, 4.0, 3.9), (0.9, 0.8, 0.2, 0.1), strict=True)
    ]
    (found,) = ablation.findings({"rows": steps})
    assert found.ours.startswith("capacity +0.50 dynamic chunking, +0.50 relegation, -0.10 hybrid priority")
    assert "most from relegation." in found.why


def test_prefill_node_of_the_paper_takes_the_largest_steps() -> None:
    desk = Desk("prefill", Lab(), TINY, find_traces(None))
    case = prefill.case(desk, "azure-conv", "paper")
    policy = case.setup().replica(lambda done: None).policy
    assert policy.alpha_s == 0.016  # type: ignore[attr-defined]
    assert case.limits.role == "prefill"


# What is written ---------------------------------------------------------------------------------


def test_results_are_the_same_with_any_number_of_processes(tmp_path: Path) -> None:
    figures = [figure for figure in FIGURES if figure.name in ("late", "latency")]
    written = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        out.mkdir()
        order = Order(figures=figures, out=out, traces=find_traces(None), scale=TINY, jobs=jobs)
        result, cpu_s = reproduce(order)
        assert cpu_s["latency"] > 0
        assert cpu_s["late"] == 0, "both use the same runs"
        assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(result))
        written.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert list(written[0]) == ["late.png", "latency.png", "results.json", "results.md"]
    assert written[0] == written[1]


def test_results_page_shows_claims_pictures_and_the_origin_of_the_lengths() -> None:
    figure = next(figure for figure in FIGURES if figure.name == "fleet")
    data = {
        "qps": 35.0,
        "shared": {"fcfs": 12, "edf": 10, "paper": 9, "niyama": 9},
        "silo": {"interactive": 6, "batch+background": 5},
        "forced": [],
    }
    part = record(figure, "a note", data)
    head = {"scale": "quick", "seed": 3, "traces": {"Azure Code": "built-in preset azure-code"}}
    page = markdown(head, [(figure, part)])
    assert "| GPUs for 35 requests/s, silos against shared | 13 against 10 | 11 against 9 |" in page
    assert "![" in page
    assert "](fleet.png)" in page
    assert "scale quick, seed 3" in page
    assert "built-in preset azure-code" in page
    assert "**Quick run" in page
    assert "**Quick run" not in markdown({**head, "scale": "full"}, [(figure, part)])


def test_table_cells_cannot_break_the_page() -> None:
    from niyama.bench.reproduce.page import Table

    assert list(rows(Table(["a"], [["x|y\nz"]]))) == ["| a |", "| --- |", "| x/y z |"]
