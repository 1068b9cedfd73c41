from __future__ import annotations

import pytest

from niyama.qos import Importance, Slo
from niyama.scheduling.ledger import Job
from niyama.scheduling.policy import Request
from niyama.scheduling.priority import (
    ALPHA_PER_LEVEL,
    LOAD_KNEE,
    LOAD_PER_LEVEL,
    LOAD_WINDOW_S,
    MAX_LEVEL,
    Load,
    hybrid_key,
    remaining_work,
)


def job(
    slo: Slo,
    num_prompt_tokens: int = 100,
    num_cached_tokens: int = 0,
    importance: Importance = Importance.NORMAL,
) -> Job:
    request = Request(
        "r", 5.0, slo, num_prompt_tokens, 1000, num_cached_tokens=num_cached_tokens, importance=importance
    )
    return Job(request, expected_output=40)


def test_remaining_work_counts_output_only_with_a_ttlt() -> None:
    assert remaining_work(job(Slo(ttft_s=1.0))) == 100
    assert remaining_work(job(Slo(ttlt_s=60.0))) == 140


def test_remaining_work_leaves_cached_tokens_out() -> None:
    assert remaining_work(job(Slo(ttft_s=1.0), num_cached_tokens=70)) == 30


def test_remaining_work_output_beyond_the_estimate_is_not_negative() -> None:
    resumed = job(Slo(ttlt_s=60.0))
    resumed.num_emitted = 90
    assert remaining_work(resumed) == 100


def test_hybrid_key_slides_from_deadline_to_work() -> None:
    urgent_long, late_short = job(Slo(ttft_s=1.0), 1000), job(Slo(ttft_s=9.0), 10)
    by_deadline = [hybrid_key(urgent_long, 6.0, 0.0), hybrid_key(late_short, 14.0, 0.0)]
    by_work = [hybrid_key(urgent_long, 6.0, 0.1), hybrid_key(late_short, 14.0, 0.1)]
    assert by_deadline == [(6.0, 5.0), (14.0, 5.0)]
    assert by_work == [pytest.approx((106.0, 5.0)), pytest.approx((15.0, 5.0))]


def test_load_steady_arrivals_tend_to_their_share() -> None:
    load = Load()
    for tenth in range(3000):
        load.add(0.05, tenth / 10)
    assert load.share(300.0) == pytest.approx(0.5, rel=0.01)


def test_load_without_arrivals_fades_by_its_window() -> None:
    load = Load()
    load.add(LOAD_WINDOW_S, 0.0)
    assert load.share(0.0) == 1.0
    assert load.share(LOAD_WINDOW_S) == pytest.approx(1 / 2.718281828)


def test_load_below_the_knee_has_no_alpha() -> None:
    load = Load()
    load.add(0.8 * LOAD_WINDOW_S, 0.0)
    assert not load.follow(0.0)
    assert load.alpha_s(0.001) == 0.0


def test_load_alpha_rises_with_load_up_to_its_bound() -> None:
    levels = []
    for share in (0.95, 1.15, 1.45, 2.0, 50.0):
        load = Load()
        load.add(share * LOAD_WINDOW_S, 0.0)
        assert load.follow(0.0)
        levels.append(load.level)
        assert load.alpha_s(0.001) == pytest.approx(load.level * ALPHA_PER_LEVEL * 0.001)
    assert levels == sorted(set(levels))
    assert levels[-1] == MAX_LEVEL


def test_load_near_a_boundary_keeps_its_level() -> None:
    load = Load()
    load.add((LOAD_KNEE + 1.1 * LOAD_PER_LEVEL) * LOAD_WINDOW_S, 0.0)
    load.follow(0.0)
    level = load.level
    load.add(-0.2 * LOAD_PER_LEVEL * LOAD_WINDOW_S, 0.0)
    assert not load.follow(0.0)
    assert load.level == level
    load.add(-0.4 * LOAD_PER_LEVEL * LOAD_WINDOW_S, 0.0)
    assert load.follow(0.0)
    assert load.level == level - 1


def test_hybrid_key_lower_importance_stands_back_only_under_load() -> None:
    normal, low = (job(Slo(ttft_s=1.0), importance=each) for each in (Importance.NORMAL, Importance.LOW))
    assert hybrid_key(low, 6.0, 0.0) == hybrid_key(normal, 6.0, 0.0)
    assert hybrid_key(low, 6.0, 0.001) > hybrid_key(normal, 60.0, 0.001)


def test_load_without_pressure_keeps_alpha_at_zero() -> None:
    load = Load()
    load.add(3 * LOAD_WINDOW_S, 0.0)
    assert not load.follow(0.0, margin_s=2 * LOAD_WINDOW_S)
    assert load.level == 0
    assert load.follow(0.0, margin_s=1.0)
    assert load.level > 0
