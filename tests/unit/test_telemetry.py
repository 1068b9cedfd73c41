from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from niyama.telemetry import MAX_CAUSES, MAX_SAMPLES, Outcome, Telemetry, finite


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(["chat", "batch"])


def test_drain_of_nothing_names_every_class_and_holds_no_event(telemetry: Telemetry) -> None:
    drained = telemetry.drain()
    assert list(drained["classes"]) == ["chat", "batch"]
    assert drained["classes"]["chat"] == drained["classes"]["batch"]
    assert drained["classes"]["chat"] == {
        "gaps": [],
        "tbt_violations": 0,
        "relegated": 0,
        "restored": 0,
        "held": 0,
        "sat_out": 0,
        "outcomes": {"met": 0, "missed": 0, "aborted": 0},
        "relegated_outcomes": {"met": 0, "missed": 0, "aborted": 0},
        "ttft_s": [],
        "ttlt_s": [],
        "slack_s": [],
    }
    assert drained["totals"]["chat"] == {"met": 0, "missed": 0, "aborted": 0, "attainment": None}


def test_drain_after_events_holds_each_of_them_once(telemetry: Telemetry) -> None:
    telemetry.step(0.02, 0.03, 256)
    telemetry.gaps("chat", 0.02, 7)
    telemetry.tbt_violations("chat", 2)
    telemetry.relegated("batch")
    telemetry.restored("batch")
    telemetry.held("batch", 3)
    telemetry.sat_out("batch", 5)
    telemetry.finished("chat", "missed", 1.5, 4.0, -0.25, True)
    telemetry.unknown_class()
    telemetry.fallback()
    telemetry.realised("kv_pressure", 2)
    telemetry.realised("kv_pressure", 1)

    drained = telemetry.drain()
    assert drained["steps"] == [[0.02, 0.03, 256]]
    chat, batch = drained["classes"]["chat"], drained["classes"]["batch"]
    assert chat["gaps"] == [[0.02, 7]]
    assert chat["tbt_violations"] == 2
    assert chat["outcomes"] == {"met": 0, "missed": 1, "aborted": 0}
    assert chat["relegated_outcomes"] == {"met": 0, "missed": 1, "aborted": 0}
    assert (chat["ttft_s"], chat["ttlt_s"], chat["slack_s"]) == ([1.5], [4.0], [-0.25])
    assert (batch["relegated"], batch["restored"], batch["held"], batch["sat_out"]) == (1, 1, 3, 5)
    assert (drained["unknown_class"], drained["fallback"]) == (1, 1)
    assert drained["realised"] == {"kv_pressure": 3}
    assert drained["dropped"] == 0


def test_second_drain_holds_nothing_but_the_totals(telemetry: Telemetry) -> None:
    telemetry.step(0.02, 0.03, 256)
    telemetry.realised("cache_hit", 2)
    telemetry.fallback()
    outcomes: list[Outcome] = ["met", "met", "met", "missed", "aborted"]
    for outcome in outcomes:
        telemetry.finished("chat", outcome, 1.0, 2.0, 3.0, False)
    first, second = telemetry.drain(), telemetry.drain()
    assert first["totals"] == second["totals"]
    assert second["totals"]["chat"] == {"met": 3, "missed": 1, "aborted": 1, "attainment": 0.75}
    assert second["steps"] == []
    assert second["realised"] == {}
    assert second["fallback"] == 0
    assert second["classes"] == Telemetry(["chat", "batch"]).drain()["classes"]
    assert telemetry.fallback_total == 1
    assert telemetry.realised_total == {"cache_hit": 2}


def test_drained_result_is_not_touched_by_later_events(telemetry: Telemetry) -> None:
    drained = telemetry.drain()
    before = json.dumps(drained)
    telemetry.step(1.0, 1.0, 1)
    telemetry.finished("chat", "met", 1.0, 1.0, 1.0, True)
    assert json.dumps(drained) == before


def test_request_without_tokens_leaves_an_outcome_and_no_sample(telemetry: Telemetry) -> None:
    telemetry.finished("batch", "aborted", None, None, None, False)
    events = telemetry.drain()["classes"]["batch"]
    assert events["outcomes"] == {"met": 0, "missed": 0, "aborted": 1}
    assert events["relegated_outcomes"] == {"met": 0, "missed": 0, "aborted": 0}
    assert (events["ttft_s"], events["ttlt_s"], events["slack_s"]) == ([], [], [])


def test_gaps_of_no_token_leave_no_sample(telemetry: Telemetry) -> None:
    telemetry.gaps("chat", 0.5, 0)
    assert telemetry.drain()["classes"]["chat"]["gaps"] == []


def test_telemetry_never_drained_stays_bounded_and_counts_what_it_drops(telemetry: Telemetry) -> None:
    excess = 5
    for number in range(MAX_SAMPLES + excess):
        telemetry.step(0.01, 0.01, 1)
        telemetry.gaps("chat", 0.01, 4)
        telemetry.finished("chat", "met", 0.1, 0.2, 0.3, False)
        telemetry.realised(f"cause {number}", 1)
    drained = telemetry.drain()
    chat = drained["classes"]["chat"]
    for samples in (drained["steps"], chat["gaps"], chat["ttft_s"], chat["ttlt_s"], chat["slack_s"]):
        assert len(samples) == MAX_SAMPLES
    assert drained["dropped"] == 5 * excess
    assert chat["outcomes"]["met"] == MAX_SAMPLES + excess
    assert len(drained["realised"]) == MAX_CAUSES + 1
    assert drained["realised"]["other"] == MAX_SAMPLES + excess - MAX_CAUSES


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_samples_that_are_not_finite_are_dropped_and_counted(telemetry: Telemetry, value: float) -> None:
    telemetry.step(0.01, value, 1)
    telemetry.gaps("chat", value, 1)
    telemetry.finished("chat", "met", value, value, value, False)
    drained = telemetry.drain()
    assert drained["dropped"] == 5
    json.dumps(drained, allow_nan=False)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.gaps("gold", 0.1, 1),
        lambda t: t.held("gold", 1),
        lambda t: t.relegated("gold"),
        lambda t: t.finished("gold", "met", None, None, None, False),
    ],
)
def test_class_outside_the_book_is_refused_and_leaves_no_trace(
    telemetry: Telemetry, call: Callable[[Telemetry], None]
) -> None:
    with pytest.raises(KeyError, match="gold"):
        call(telemetry)
    assert telemetry.drain() == Telemetry(["chat", "batch"]).drain()


@pytest.mark.parametrize(("value", "expected"), [(0.5, 0.5), (-1.0, -1.0), (math.inf, None), (None, None)])
def test_finite_keeps_numbers_that_json_has(value: float | None, expected: float | None) -> None:
    assert finite(value) == expected
