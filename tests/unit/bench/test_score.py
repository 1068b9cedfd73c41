from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from niyama.bench.client import Flight, Rules
from niyama.bench.planned import Planned
from niyama.bench.records import Record
from niyama.bench.score import LateWatch, client_figures, percentiles, score
from niyama.qos import Importance, QosBook, QosClass, Slo

BOOK = QosBook(
    default="chat",
    classes=MappingProxyType(
        {
            "chat": QosClass("chat", Slo(ttft_s=2.0, tbt_s=0.5), Importance.HIGH),
            "batch": QosClass("batch", Slo(ttlt_s=10.0)),
        }
    ),
)


def record(qos_class: str, token_at: list[float], **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "id": "r",
        "qos_class": qos_class,
        "importance": BOOK.classes[qos_class].importance,
        "num_prompt_tokens": 10,
        "num_output_tokens": len(token_at),
        "due_at": 0.0,
        "sent_at": 0.0,
        "token_at": token_at,
        "finished_at": token_at[-1] if token_at else 0.0,
        "num_prompt_tokens_served": 10,
        "num_output_tokens_served": len(token_at),
    }
    return Record(**{**fields, **changes})


RUN = [
    record("chat", [1.0, 1.5, 2.0]),
    # Early first token, then late by its own pace and not by the paper's; the artifact knows no pace.
    record("chat", [1.0, 1.2, 2.4]),
    record("chat", [2.5, 2.6]),
    record("batch", [5.0, 9.9]),
    record("batch", [5.0, 10.1]),
    record("batch", [], error="HTTP 500: oops"),
]


def test_late_shares_by_every_criterion() -> None:
    result = score(RUN, BOOK, "strict", 20.0)
    by = result["late_share_by_criterion"]
    assert by["strict"] == {"all": 4 / 6, "batch": 2 / 3, "chat": 2 / 3}
    assert by["paper"] == {"all": 3 / 6, "batch": 2 / 3, "chat": 1 / 3}
    assert by["artifact"] == by["paper"]
    assert result["late_share"] == by["strict"]
    assert result["late_share_by_importance"] == {"high": 2 / 3, "normal": 2 / 3}


def test_late_shares_by_the_part_of_the_promise() -> None:
    parts = score(RUN, BOOK, "strict", 20.0)["late_share_by_part"]
    assert parts["ttft"] == {"all": 1 / 3, "chat": 1 / 3}
    assert parts["tbt"] == {"all": 1 / 3, "chat": 1 / 3}
    assert parts["ttlt"] == {"all": 2 / 3, "batch": 2 / 3}


def _planned(qos_class: str) -> Planned:
    return Planned(id="r", due_at=0.0, num_prompt_tokens=10, num_output_tokens=1, qos_class=qos_class)


def test_a_class_is_settled_once_its_share_is_used_up_whatever_comes() -> None:
    planned = [_planned(name) for name in ("chat",) * 200 + ("batch",) * 99]
    settles = LateWatch(planned, BOOK, 0.01)

    def watch(one: Record) -> str | None:
        return settles(one, [], -1.0)

    in_time, late = record("chat", [1.0]), record("chat", [2.5])
    assert [watch(one) for one in (in_time, late, late)] == [None] * 3, "2 of 200 may be late"
    assert watch(record("chat", [3.0], has_left=True)) is None, "who left is not scored"
    assert watch(in_time) is None
    assert watch(record("batch", [9.0])) is None
    assert watch(late) == "3 late requests of class chat"
    assert watch(record("batch", [10.5])) == "1 late requests of class batch", "none of 99 may be late"


def test_who_waits_for_too_long_counts_before_the_answer_ends_and_only_once() -> None:
    watch = LateWatch([_planned("chat")] * 200 + [_planned("batch")] * 99, BOOK, 0.01)
    in_time, reading = record("chat", [1.0]), record("chat", [1.0], finished_at=None)
    waiting = [record("chat", [], id=f"w{number}", finished_at=None) for number in range(2)]
    answered = [record("batch", [9.0]) for _ in range(98)]
    batch = record("batch", [3.0], num_output_tokens=2, finished_at=None)
    records = [in_time, reading, *waiting, *[in_time] * 196, *answered, batch]
    assert watch(in_time, records, 2.0) is None
    assert watch(in_time, records, 2.1) is None, "two of 200 may be late"
    for one in waiting:
        one.token_at.append(2.5)
        one.finished_at = 2.5
        assert watch(one, records, 2.5) is None, "it has been counted"
    assert watch(record("chat", [2.5]), records, 2.6) == "3 late requests of class chat"
    assert LateWatch([_planned("batch")] * 99, BOOK, 0.01)(answered[0], [*answered, batch], 10.1) == (
        "1 late requests of class batch"
    ), "a TTLT is over though the first token came"
    ending = record("batch", [3.0, 9.9], finished_at=None)
    assert LateWatch([_planned("batch")] * 99, BOOK, 0.01)(answered[0], [*answered, ending], 10.1) is None


def test_rates_are_per_second_of_the_run() -> None:
    result = score(RUN, BOOK, "strict", 20.0)
    assert result["goodput_rps"] == 2 / 20
    assert result["finished_rps"] == 5 / 20
    assert result["throughput_tps"] == 12 / 20
    assert result["prompt_tps"] == 50 / 20
    assert result["errors"] == {"count": 1, "causes": {"HTTP 500: oops": 1}}


def test_latencies_count_from_the_planned_instant() -> None:
    late_sender = record("chat", [3.0, 3.5], due_at=1.5, sent_at=1.9)
    result = score([late_sender], BOOK, "strict", 4.0)
    assert result["ttft_s"]["chat"]["p50"] == 1.5
    assert result["tbt_s"]["chat"]["p99"] == 0.5
    assert result["ttlt_s"]["all"]["p50"] == 2.0


def test_who_left_or_was_never_sent_is_not_scored() -> None:
    left = record("chat", [9.0], has_left=True)
    unsent = record("chat", [], sent_at=None)
    result = score([*RUN, left, unsent], BOOK, "strict", 20.0)
    assert result["late_share"] == score(RUN, BOOK, "strict", 20.0)["late_share"]
    assert (result["requests"], result["left"]) == (6, 1)


def test_a_failure_is_late_where_nothing_is_promised_by_the_criterion() -> None:
    book = QosBook(default="c", classes=MappingProxyType({"c": QosClass("c", Slo(tbt_s=0.5))}))
    failed = Record(
        id="r", qos_class="c", num_prompt_tokens=1, num_output_tokens=1, due_at=0.0, sent_at=0.0, error="no"
    )
    assert score([failed], book, "artifact", 1.0)["late_share"]["all"] == 1.0


def test_a_run_without_an_answer_has_no_percentiles() -> None:
    result = score([], BOOK, "strict", 0.0)
    assert result["ttft_s"] == {}
    assert result["late_share"] == {}
    assert result["goodput_rps"] == 0.0


def test_lengths_that_were_not_kept_are_counted() -> None:
    short = record("batch", [1.0], num_output_tokens=5, num_prompt_tokens_served=11)
    lengths = score([record("batch", [1.0, 2.0]), short], BOOK, "strict", 2.0)["lengths"]
    assert lengths["prompt_off_share"] == lengths["output_off_share"] == 0.5


def test_answers_of_another_class_than_asked_are_counted() -> None:
    def off_share(*answers: Record) -> float | None:
        share: float | None = score(answers, BOOK, "strict", 2.0)["served_class_off_share"]
        return share

    silent, right = record("chat", [1.0]), record("chat", [1.0], served_class="chat")
    wrong = record("batch", [1.0], served_class="chat")
    failed = record("batch", [], served_class="chat", error="HTTP 500: oops")
    assert off_share(silent, failed) is None
    assert off_share(silent, right, failed) == 0.0
    assert off_share(silent, right, wrong, failed) == 0.5


def test_percentiles_are_values_that_occurred() -> None:
    found = percentiles([float(n) for n in range(1, 101)])
    assert found == {"mean": 50.5, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([])["p50"] is None


@pytest.mark.parametrize(("lag_s", "is_valid"), [(0.01, True), (0.05, False)])
def test_run_counts_if_the_client_kept_up(lag_s: float, is_valid: bool) -> None:
    flight = Flight([record("chat", [1.0], sent_at=lag_s)], wall_s=1.0, cpu_s=0.1, num_tokens=100)
    figures = client_figures(flight, Rules(max_lag_s=0.025))
    assert figures["valid"] is is_valid
    assert figures["client"]["cpu_us_per_token"] == pytest.approx(1000)
    flight = Flight([record("chat", [1.0])], wall_s=1.0, loop_lags_s=[lag_s])
    assert client_figures(flight, Rules(max_lag_s=0.025))["valid"] is is_valid
