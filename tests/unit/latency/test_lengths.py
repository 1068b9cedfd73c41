from __future__ import annotations

import statistics

import pytest

from niyama.latency import OutputLengthEstimator
from niyama.latency.lengths import MIN_SAMPLES, PRIOR_TOKENS


def _trained(lengths: list[int], qos_class: str = "chat", tenant: str = "acme") -> OutputLengthEstimator:
    estimator = OutputLengthEstimator()
    for length in lengths:
        estimator.finished(qos_class, tenant, length)
    return estimator


def test_expect_without_history_is_the_prior_or_the_bound() -> None:
    estimator = OutputLengthEstimator()
    assert estimator.expect("chat", "acme", 4096) == PRIOR_TOKENS
    assert estimator.expect("chat", "acme", 16) == 16


def test_expect_with_history_is_mean_plus_two_deviations() -> None:
    lengths = [80, 100, 120, 90, 110, 100, 95, 105, 130, 70]
    expected = statistics.fmean(lengths) + 2 * statistics.pstdev(lengths)
    assert _trained(lengths).expect("chat", "acme", 4096) == pytest.approx(expected, abs=1)


def test_expect_pair_with_few_answers_backs_off_to_class_then_to_all() -> None:
    estimator = _trained([100] * MIN_SAMPLES)
    estimator.finished("chat", "new", 5)
    assert estimator.expect("chat", "unseen", 4096) == estimator.expect("chat", "new", 4096)
    assert 100 <= estimator.expect("chat", "new", 4096) < PRIOR_TOKENS
    assert 100 <= estimator.expect("batch", "unseen", 4096) < PRIOR_TOKENS


def test_expect_tenants_of_one_class_are_kept_apart() -> None:
    estimator = _trained([100] * 20)
    for _ in range(20):
        estimator.finished("chat", "long", 900)
    assert estimator.expect("chat", "acme", 4096) == 100
    assert estimator.expect("chat", "long", 4096) == 900


def test_expect_answer_that_outlives_its_estimate_goes_on_within_the_bound() -> None:
    estimator = _trained([100] * 20)
    expected = [estimator.expect("chat", "acme", 1000, so_far) for so_far in range(1000)]
    assert all(so_far < answer <= 1000 for so_far, answer in enumerate(expected))
    assert expected == sorted(expected)
    assert estimator.expect("chat", "acme", 1000, 1000) == 1000


def test_expect_hint_replaces_history_within_the_bound() -> None:
    estimator = _trained([100] * 20)
    assert estimator.expect("chat", "acme", 1000, hint=7) == 7
    assert estimator.expect("chat", "acme", 1000, hint=5000) == 1000
    assert estimator.expect("chat", "acme", 1000, 7, hint=7) > 7
    assert estimator.expect("chat", "acme", 1000, hint=0) == 100


def test_expect_follows_a_drift() -> None:
    estimator = _trained([100] * 3000)
    for _ in range(3000):
        estimator.finished("chat", "acme", 400)
    assert estimator.expect("chat", "acme", 4096) == pytest.approx(400, rel=0.15)


def test_finished_zero_tokens_is_ignored() -> None:
    estimator = _trained([100] * 20)
    for _ in range(50):
        estimator.finished("chat", "acme", 0)
    assert estimator.expect("chat", "acme", 4096) == 100


def test_finished_many_tenants_forgets_the_longest_unused() -> None:
    estimator = OutputLengthEstimator(max_histories=3)
    for tenant, length in (("a", 10), ("b", 20), ("c", 30)):
        for _ in range(MIN_SAMPLES):
            estimator.finished("chat", tenant, length)
    estimator.expect("chat", "a", 4096)
    estimator.finished("chat", "d", 40)
    assert estimator.expect("chat", "a", 4096) == 10
    assert estimator.expect("chat", "c", 4096) == 30
    assert estimator.expect("chat", "b", 4096) != 20


def test_estimator_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_histories: 0 is not allowed"):
        OutputLengthEstimator(max_histories=0)
