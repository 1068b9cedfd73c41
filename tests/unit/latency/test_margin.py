from __future__ import annotations

import random

import pytest

from niyama.latency.margin import QuantileMargin


def test_margin_without_steps_is_the_prior_share() -> None:
    assert QuantileMargin(prior=0.3).margin_s(0.02) == pytest.approx(0.006)


def test_margin_noisy_steps_leaves_the_wanted_share_beyond() -> None:
    rng = random.Random(5)
    margin = QuantileMargin(quantile=0.95)
    late = 0
    for step in range(6000):
        predicted_s = rng.uniform(0.004, 0.2)
        duration_s = predicted_s * rng.lognormvariate(0.0, 0.2)
        late += step >= 1000 and duration_s > predicted_s + margin.margin_s(predicted_s)
        margin.observe(predicted_s, duration_s)
        margin.refresh()
    assert 0.03 < late / 5000 < 0.07


def test_margin_small_steps_noisier_than_large_ones_differs_by_size() -> None:
    rng = random.Random(5)
    margin = QuantileMargin()
    for _ in range(400):
        margin.observe(0.003, 0.003 * rng.uniform(1.0, 2.0))
        margin.observe(0.1, 0.1 * rng.uniform(1.0, 1.1))
    margin.refresh()
    assert margin.margin_s(0.003) > 0.7 * 0.003
    assert margin.margin_s(0.1) < 0.12 * 0.1


def test_margin_longer_prediction_is_never_safer() -> None:
    margin = QuantileMargin()
    for _ in range(60):
        margin.observe(0.01, 0.03)
        margin.observe(0.02, 0.02)
    margin.refresh()
    safe_s = [p / 1e4 + margin.margin_s(p / 1e4) for p in range(1, 1000)]
    assert safe_s == sorted(safe_s)


def test_margin_stalls_leave_it_within_bounds() -> None:
    margin = QuantileMargin()
    for _ in range(100):
        margin.observe(0.01, 10.0)
    margin.refresh()
    assert margin.margin_s(0.01) <= 2.0 * 0.01


def test_longest_prediction_is_the_inverse_of_the_margin() -> None:
    rng = random.Random(5)
    margin = QuantileMargin()
    for _ in range(3000):
        predicted_s = rng.uniform(0.002, 0.3)
        margin.observe(predicted_s, predicted_s * rng.uniform(1.0, 1.0 + 0.01 / predicted_s))
    margin.refresh()
    for limit_s in (0.0005, 0.004, 0.02, 0.07, 0.5, 3.0):
        predicted_s = margin.longest_prediction_s(limit_s)
        assert predicted_s + margin.margin_s(predicted_s) == pytest.approx(limit_s)
