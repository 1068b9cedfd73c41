from __future__ import annotations

import pytest

from niyama.qos import Importance, Slo
from niyama.scheduling.ledger import Job
from niyama.scheduling.policy import Request
from niyama.scheduling.priority import hybrid_key, remaining_work


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


def test_hybrid_key_lower_importance_stands_back_only_under_load() -> None:
    normal, low = (job(Slo(ttft_s=1.0), importance=each) for each in (Importance.NORMAL, Importance.LOW))
    assert hybrid_key(low, 6.0, 0.0) == hybrid_key(normal, 6.0, 0.0)
    assert hybrid_key(low, 6.0, 0.0, 100.0) > hybrid_key(normal, 60.0, 0.0, 100.0)
    assert hybrid_key(normal, 6.0, 0.0, 100.0) == hybrid_key(normal, 6.0, 0.0)
