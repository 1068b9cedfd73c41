from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from tests.unit.bench.comparisons import result, row

from niyama.bench.comparepicture import INVALID_COLOUR
from niyama.bench.comparereport import report_html
from niyama.bench.compareresult import as_text
from niyama.bench.findings import findings, knee_ratios, knee_table, table
from niyama.compiled import INTERPRETED

THROUGHPUT = "alone: throughput, of stock's in the same turn, median"


def found(runs: list[dict[str, Any]], **more: Any) -> dict[str, tuple[Any, bool]]:
    return {one["what"]: (one["value"], one["is_met"]) for one in findings(result(runs, **more))}


def test_overload_is_held_against_the_best_stock_and_fcfs() -> None:
    runs = [
        row("vllm-fcfs", late={"a": 0.6, "b": 0.0}),
        row("vllm-priority", late={"a": 0.1, "b": 0.1}),
        row("niyama", late={"a": 0.04, "b": 0.08}),
    ]
    values = found(runs)
    assert values["steady at 1.3: late, of the best stock's"] == (pytest.approx(0.6), False)
    assert values["steady at 1.3: late, of vllm-fcfs's"] == (pytest.approx(0.2), True)


def test_below_load_one_the_latest_class_counts_over_the_repeats() -> None:
    runs = [
        row("niyama", load=0.85, late={"a": 0.0, "b": share}, repeat=n) for n, share in enumerate([0.0, 0.03])
    ]
    value, is_met = found(runs)["steady at 0.85: the latest class"]
    assert (value, is_met) == (pytest.approx(0.015), False)


def test_importance_and_throughput_have_their_bounds() -> None:
    runs = [
        row("niyama", "low", late={"a": 0.1}, late_share_important=0.01),
        row("niyama", "alone", 0.0, throughput_tps=97.0),
        row("vllm-fcfs", "alone", 0.0, throughput_tps=90.0),
        row("vllm-priority", "alone", 0.0, throughput_tps=100.0),
    ]
    assert found(runs) == {
        "low at 1.3: important requests late": (0.01, True),
        THROUGHPUT: (pytest.approx(0.97), False),
    }


def test_throughput_is_compared_turn_by_turn() -> None:
    """A machine that gets faster flatters whoever comes later; within a turn it hardly can."""
    turns = [(98.0, 100.0), (150.0, 150.0), (190.0, 200.0)]
    runs = [row("niyama", "alone", 0.0, throughput_tps=ours, repeat=n) for n, (ours, _) in enumerate(turns)]
    runs += [row("vllm-fcfs", "alone", 0.0, throughput_tps=tps, repeat=n) for n, (_, tps) in enumerate(turns)]
    assert found(runs) == {THROUGHPUT: (pytest.approx(0.98), True)}
    assert found(runs[:3]) == {}, "nothing to compare it with"


def test_nobody_late_anywhere_is_no_division_by_zero() -> None:
    runs = [row(policy, late={"a": 0.0}) for policy in ("vllm-fcfs", "niyama")]
    assert all(is_met for _, is_met in found(runs).values())


def test_knees_are_compared_with_fcfs_and_the_best_stock() -> None:
    knees: dict[str, dict[str, Any]] = {
        "vllm-fcfs": {"load": 0.5, "qps": 5, "chunk": 256},
        "vllm-priority": {"load": 0.8, "qps": 8, "chunk": 512},
        "niyama": {"load": 1.0, "qps": 10, "chunk": None},
    }
    assert knee_ratios(knees) == {"vllm-fcfs": 2.0, "best stock": 1.25}
    assert found([], knees=knees)["knee, of best stock's"] == (1.25, True)
    emulated = found(
        [], knees={**knees, "niyama": {"load": 0.85, "qps": 8.5, "chunk": None}}, engine={"kind": "emulated"}
    )
    assert emulated["knee, of best stock's"][1] is False
    for book, is_met in (("paper", True), ("tight", False)):
        ours = {**knees, "niyama": {"load": 0.9, "qps": 9.0, "chunk": None}}
        at = found([], knees=ours, engine={"kind": "emulated"}, book=book)
        assert at["knee, of best stock's"][1] is is_met
    assert knee_ratios({"niyama": knees["niyama"]}) == {}
    assert "| vllm-priority (512) | 0.8 | 8.00 |" in knee_table(result([], knees=knees))


def test_the_table_puts_repeats_together_with_their_spread() -> None:
    runs = [row("vllm-fcfs", late={"a": share}, repeat=n) for n, share in enumerate([0.1, 0.3])]
    line = table(result(runs)).splitlines()[-1]
    assert line.startswith("| steady | 1.3 | vllm-fcfs (512) | 20.0% (10.0% to 30.0%) | 20.0% |")
    runs = [row("niyama", "alone", 0.0, throughput_tps=tps, repeat=n) for n, tps in enumerate([90.0, 110.0])]
    assert table(result(runs)).splitlines()[-1].endswith("| 100 (90 to 110) |")
    assert "1 of each; alone: 2 turns of 180 s." in as_text({**result(runs), "findings": []})


def test_the_text_says_when_figures_do_not_count() -> None:
    runs = [row("niyama", late={"a": 0.0}, valid=False, invalid_because=["fell behind"])]
    whole = result(runs, shortened=True)
    text = as_text({**whole, "findings": findings(whole)})
    assert "SHORTENED" in text
    assert "interpreted" not in text
    assert INTERPRETED in as_text({**whole, "compiled": False, "findings": []})
    assert "niyama INVALID" in text


def test_the_report_stands_alone_and_says_what_it_is() -> None:
    pytest.importorskip("matplotlib")
    runs = [
        row("vllm-fcfs", late={"a": 0.6, "b<": 0.0}),
        row("niyama", late={"a": 0.04, "b<": 0.08}, valid=False, invalid_because=["fell behind"]),
        row("niyama", "alone", 0.0),
        row("niyama", "backlog", 0.45, late={"a": 0.0}),
    ]
    knees = {"niyama": {"load": 1.0, "qps": 10.0, "chunk": None}}
    page = report_html(result(runs, knees=knees, shortened=True))
    assert page == report_html(result(runs, knees=knees, shortened=True)), "same figures, same bytes"
    assert "vLLM computing the demo model" in page
    assert "SHORTENED" in page
    assert "INVALID: 1 runs" in page
    assert "make compile" not in page
    assert "make compile" in report_html(result(runs, compiled=False))
    assert page.count("<img") == 6
    assert "src='http" not in page
    assert "<b<" not in page


def do_count(runs: list[dict[str, Any]], **more: Any) -> dict[str, bool]:
    return {one["what"]: one["valid"] for one in findings(result(runs, **more))}


def test_what_comes_from_a_run_that_does_not_count_does_not_count() -> None:
    rows = {policy: row(policy, late={"a": 0.1}) for policy in ("vllm-fcfs", "vllm-priority", "niyama")}
    of_best, of_fcfs = "steady at 1.3: late, of the best stock's", "steady at 1.3: late, of vllm-fcfs's"
    assert do_count([*rows.values()]) == {of_best: True, of_fcfs: True}
    spoilt = {name: [*(rows | {name: {**rows[name], "valid": False}}).values()] for name in rows}
    assert do_count(spoilt["niyama"]) == {of_best: False, of_fcfs: False}
    assert do_count(spoilt["vllm-fcfs"]) == {of_best: False, of_fcfs: False}
    assert do_count(spoilt["vllm-priority"]) == {of_best: False, of_fcfs: True}
    repeats = [*rows.values(), row("niyama", late={"a": 0.1}, repeat=1, valid=False)]
    assert do_count(repeats) == {of_best: False, of_fcfs: False}, "one repeat of several"
    ended_early = {**rows, "niyama": {**rows["niyama"], "settled_by": "3 late requests of class a"}}
    assert all(do_count([*ended_early.values()]).values()), "short, and yet it shows what it is to show"


def test_nothing_of_shortened_runs_counts_nor_of_a_load_1_that_does_not() -> None:
    runs = [row("niyama", load=0.85, late={"a": 0.0}), row("niyama", "low", late={"a": 0.0})]
    runs += [row("niyama", "alone", 0.0), row("vllm-fcfs", "alone", 0.0)]
    knees = {name: {"load": 1.0, "qps": 10, "chunk": None, "valid": True} for name in ("niyama", "vllm-fcfs")}
    assert [*do_count(runs, knees=knees).values()] == [True] * 5
    assert [*do_count(runs, knees=knees, shortened=True).values()] == [False] * 5
    of_load = do_count(runs, knees=knees, saturation_valid=False)
    assert {what for what, counts in of_load.items() if counts} == {
        "knee, of vllm-fcfs's",
        "knee, of best stock's",
        THROUGHPUT,
    }


def test_a_knee_that_does_not_count_spoils_what_it_is_held_against() -> None:
    loads = {"vllm-fcfs": 0.5, "vllm-priority": 0.8, "niyama": 1.0}
    knees = {
        name: {"load": load, "qps": 5, "chunk": 256, "valid": name != "vllm-priority"}
        for name, load in loads.items()
    }
    assert do_count([], knees=knees) == {"knee, of vllm-fcfs's": True, "knee, of best stock's": False}


def test_words_say_that_an_aim_does_not_count() -> None:
    pytest.importorskip("matplotlib")
    runs = [row("niyama", load=0.85, late={"a": 0.0}, valid=False, invalid_because=["fell behind"])]
    spoilt = result(runs, saturation_valid=False, saturation_invalid_because=["it lagged"])
    text = as_text({**spoilt, "findings": findings(spoilt)})
    assert "the latest class: 0, at most 0.01: does not count" in text
    assert "(load 1, INVALID)" in text
    page = report_html(spoilt)
    assert "<td class=bad>does not count</td>" in page
    assert "load 1 was not measured right, and all loads are shares of it: it lagged" in page
    good = result([row("niyama", load=0.85, late={"a": 0.5})])
    assert "at most 0.01: MISSED" in as_text({**good, "findings": findings(good)})
    assert "<td class=bad>MISSED</td>" in report_html(good)


def test_bars_and_points_of_invalid_runs_are_marked() -> None:
    pytest.importorskip("matplotlib")

    def pictures(**more: Any) -> list[str]:
        runs = [row("niyama", late={"a": 0.1}, **more), row("niyama", "alone", 0.0, **more)]
        knees = {"niyama": {"load": 1.0, "qps": 10.0, "chunk": None, **more}}
        page = report_html(result(runs, knees=knees))
        found = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
        return [base64.b64decode(one).decode() for one in found]

    spoilt = pictures(valid=False, invalid_because=["fell behind"])
    assert len(spoilt) == 4
    assert all(INVALID_COLOUR in one for one in spoilt[1:])
    assert ["<pattern" in one for one in spoilt] == [False, True, True, True]
    assert not any("<pattern" in one for one in pictures())
    assert spoilt[0] != pictures()[0], "points of the curve"
