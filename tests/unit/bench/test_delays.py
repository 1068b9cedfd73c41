from __future__ import annotations

import random

import pytest

from niyama.bench.delays import STALLED, Delivery, Sample, fit_delay, fit_hand_on, fit_within
from niyama.latency.profilefile import Delay


def test_a_delay_that_grows_with_load_and_prompt_is_found() -> None:
    draw = random.Random(0)
    truth = Delay(2e-3, 1e-4, 5e-6)
    samples = []
    for _ in range(600):
        num_tokens, num_prompt = draw.randint(0, 40), draw.randint(1, 2000)
        delay_s = truth.expected_s(num_tokens, num_prompt) * draw.uniform(0.9, 1.1)
        samples.append(Sample(num_tokens, num_prompt, delay_s))
    found = fit_delay(samples)
    assert found.fixed == pytest.approx(truth.fixed, rel=0.1)
    assert found.per_token == pytest.approx(truth.per_token, rel=0.1)
    assert found.per_prompt_token == pytest.approx(truth.per_prompt_token, rel=0.1)
    assert found.spread.quantile(0.5) == pytest.approx(1.0, abs=0.02)
    assert (found.spread.quantile(0.0), found.spread.quantile(1.0)) == pytest.approx((0.9, 1.1), abs=0.02)


def test_a_delay_hidden_between_steps_is_found() -> None:
    """The scheduler looks every 20 ms, so each arrival tells only between which looks it came."""
    draw = random.Random(1)
    windows = []
    for _ in range(3000):
        delay_s, look_s = draw.uniform(4e-3, 8e-3), 20e-3
        since_look_s = draw.uniform(0, look_s)
        upper_s = look_s - since_look_s
        while upper_s < delay_s:
            upper_s += look_s
        windows.append((max(0.0, upper_s - look_s), upper_s))
    found = fit_within(windows)
    for share, truth_s in ((0.1, 4.4e-3), (0.5, 6e-3), (0.9, 7.6e-3)):
        assert found.fixed * found.spread.quantile(share) == pytest.approx(truth_s, rel=0.15)


def test_steps_that_wait_for_the_one_before_are_told_apart() -> None:
    """A stall of 50 ms holds up what ends meanwhile; after it everything goes out at 1 ms a step."""
    deliveries, through_at = [], 0.0
    for number in range(300):
        ended_at = 0.01 * number
        is_behind = ended_at < through_at
        stall_s = 0.05 if number % 50 == 10 else 0.0
        starts_at = through_at if is_behind else ended_at
        through_at = starts_at + (1e-3 if is_behind else 2e-3 + 1e-4 * 8 + stall_s)
        deliveries.append(Delivery(8, ended_at, (starts_at + through_at) / 2, through_at))
    found = fit_hand_on([deliveries])
    assert found.behind.fixed == pytest.approx(1e-3)
    assert found.idle.expected_s(8) == pytest.approx(2.8e-3, rel=0.05)
    assert found.first_share == pytest.approx(0.5)
    assert found.stalls.per_s == pytest.approx(2.0, rel=0.02)
    usual_s = STALLED * 2.8e-3
    assert found.stalls.seconds.quantile(0.5) == pytest.approx(52.8e-3 - usual_s, rel=0.05)


def test_two_servers_have_nothing_to_do_with_each_other() -> None:
    late = [Delivery(1, 1e6 + number, 0.0, 1e6 + number + 2e-3) for number in range(30)]
    early = [Delivery(1, 1.0 + number, 0.0, 1.0 + number + 2e-3) for number in range(30)]
    found = fit_hand_on([late, early])
    assert found.behind.fixed == 0.0
    assert found.idle.expected_s(1) == pytest.approx(2e-3, rel=1e-3)
