from __future__ import annotations

import math

import pytest

from niyama.qos import Slo
from niyama.scheduling.deadlines import (
    BEST_EFFORT_S,
    STRETCH,
    first_token_due_at,
    last_token_due_at,
    needed_pace_s,
    prefill_due_at,
    second_token_due_at,
    unhurried_step_s,
    wary_pace_s,
)
from niyama.scheduling.pacing import PACE_CAP_S, on_grid
from niyama.scheduling.policy import Request


def request(slo: Slo, max_tokens: int = 10) -> Request:
    return Request("r", 100.0, slo, num_prompt_tokens=10, max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("slo", "first_at", "last_at"),
    [
        (Slo(), math.inf, math.inf),
        (Slo(ttft_s=2.0), 102.0, math.inf),
        (Slo(tbt_s=0.1), math.inf, math.inf),
        (Slo(ttft_s=2.0, ttlt_s=60.0), 102.0, 160.0),
    ],
)
def test_token_due_each_promise_counts_from_arrival(slo: Slo, first_at: float, last_at: float) -> None:
    assert first_token_due_at(request(slo)) == first_at
    assert last_token_due_at(request(slo)) == last_at


@pytest.mark.parametrize(
    ("slo", "due_at"),
    [
        (Slo(ttft_s=2.0, tbt_s=0.1), 102.0),
        (Slo(ttlt_s=60.0), 155.0),  # 50 tokens at the step time of 0.1 s
        (Slo(tbt_s=0.05, ttlt_s=60.0), 157.5),  # 50 tokens at 0.05 s, which it is promised
        (Slo(ttft_s=2.0, ttlt_s=60.0), 102.0),
        (Slo(ttft_s=58.0, ttlt_s=60.0), 155.0),
        (Slo(), 100.0 + BEST_EFFORT_S),
        (Slo(tbt_s=0.1), 100.0 + BEST_EFFORT_S),
    ],
)
def test_prefill_due_earliest_of_what_is_promised(slo: Slo, due_at: float) -> None:
    assert prefill_due_at(request(slo), expected_output=50, decode_step_s=0.1) == pytest.approx(due_at)


@pytest.mark.parametrize(
    ("ttlt_s", "tightest_s", "step_s"),
    [
        (60.0, 0.12, 0.15),  # 1.25 times the tightest pace
        (60.0, 1.0, 0.2),  # twice the step
        (60.0, math.inf, 0.2),
        (8.0, math.inf, 0.12),  # a third of the 3 s that 50 tokens at 0.1 s leave
        (60.0, 0.05, 0.1),  # never less than a step
        (4.0, 0.12, 0.1),  # nothing is left
        (None, 0.12, 0.15),
    ],
)
def test_unhurried_step_is_longer_where_there_is_time(
    ttlt_s: float | None, tightest_s: float, step_s: float
) -> None:
    asked = request(Slo(ttlt_s=ttlt_s))
    assert unhurried_step_s(asked, 50, 0.1, tightest_s) == pytest.approx(step_s)


def test_needed_pace_tbt_is_kept_as_promised() -> None:
    assert needed_pace_s(Slo(tbt_s=0.05), math.inf, 100, 0.02) == 0.05


def test_needed_pace_tbt_faster_than_the_engine_leaves_room_for_prefill() -> None:
    pace_s = needed_pace_s(Slo(tbt_s=0.05), math.inf, 100, 0.06)
    assert pace_s == on_grid(STRETCH * 0.06)
    assert pace_s > 0.06


def test_needed_pace_ttlt_is_what_is_left_per_token() -> None:
    assert needed_pace_s(Slo(ttlt_s=60.0), 10.0, 40, 0.02) == on_grid(0.25)


def test_needed_pace_ttlt_already_lost_holds_nobody_back() -> None:
    assert needed_pace_s(Slo(ttlt_s=60.0), -1.0, 40, 0.02) == PACE_CAP_S
    assert needed_pace_s(Slo(ttlt_s=60.0), 0.4, 40, 0.02) == PACE_CAP_S


def test_needed_pace_both_promises_the_stricter_counts() -> None:
    slo = Slo(tbt_s=0.5, ttlt_s=60.0)
    assert needed_pace_s(slo, 10.0, 40, 0.02) == on_grid(0.25)
    assert needed_pace_s(slo, 100.0, 40, 0.02) == 0.5


def test_needed_pace_nothing_promised_is_the_cap() -> None:
    assert needed_pace_s(Slo(), math.inf, 1, 0.02) == PACE_CAP_S


def test_wary_pace_keeps_time_for_four_times_as_many_tokens_again() -> None:
    # 600 more in steps of 20 ms take 12 of the 60 s: 48 s for the 150 that are expected.
    asked = request(Slo(ttlt_s=60.0), max_tokens=10_000)
    assert wary_pace_s(asked, 60.0, 150, 150, 0.02) == on_grid(48.0 / 150)
    assert wary_pace_s(asked, 60.0, 150, 150, 0.02) < needed_pace_s(asked.slo, 60.0, 150, 0.02)


def test_wary_pace_keeps_at_most_half_of_the_time_and_no_more_than_the_client_allows() -> None:
    assert wary_pace_s(request(Slo(ttlt_s=60.0), 10_000), 40.0, 300, 100, 0.02) == on_grid(20.0 / 100)
    assert wary_pace_s(request(Slo(ttlt_s=60.0), 10_000), 30.0, 100, 100, 0.02) == on_grid(22.0 / 100)
    assert wary_pace_s(request(Slo(ttlt_s=60.0), 100), 30.0, 100, 100, 0.02) == on_grid(30.0 / 100)


def test_wary_pace_hurries_nobody_beyond_eight_steps_but_where_it_must() -> None:
    asked = request(Slo(ttlt_s=60.0), max_tokens=10_000)
    assert wary_pace_s(asked, 20.0, 100, 100, 0.02) == on_grid(0.16), "0.12 s would leave time"
    assert wary_pace_s(asked, 10.0, 100, 100, 0.02) == on_grid(0.1), "what is expected must be in time"


def test_wary_pace_without_a_ttlt_or_with_a_lost_one_is_the_needed_one() -> None:
    for slo, left_s in ((Slo(tbt_s=0.05), math.inf), (Slo(ttlt_s=60.0), -1.0), (Slo(ttlt_s=60.0), 0.0)):
        pace_s = wary_pace_s(request(slo, 10_000), left_s, 100, 50, 0.02)
        assert pace_s == needed_pace_s(slo, left_s, 50, 0.02)


def test_second_token_due_paper_anchor_counts_from_the_deadline() -> None:
    reader = request(Slo(ttft_s=2.0, tbt_s=0.1))
    assert second_token_due_at(reader, 101.0, 0.1, "strict") == pytest.approx(101.1)
    assert second_token_due_at(reader, 101.0, 0.1, "paper") == pytest.approx(102.1)
    assert second_token_due_at(reader, 103.0, 0.1, "paper") == pytest.approx(103.1)
    assert second_token_due_at(request(Slo(tbt_s=0.1)), 101.0, 0.1, "paper") == pytest.approx(101.1)
