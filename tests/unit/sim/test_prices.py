from __future__ import annotations

import random

import pytest

from niyama.latency import LinearProfile, get_profile, profile_names
from niyama.latency.calibrated import CalibratedProfile, StepTime
from niyama.latency.profiles import LinearCost
from niyama.scheduling.policy import BatchShape, LatencyModel
from niyama.sim.live import ReplicaLimits
from niyama.sim.prices import ENOUGH, Work, best_prices, work_of

LIMITS = ReplicaLimits(num_kv_tokens=60_000, max_num_seqs=48, max_num_batched_tokens=2048)
LONGEST = 6000
TOTAL = Work(2000.0, 200.0, 400_000.0, 2e6)
PLAIN = LinearCost(0.01, 0.0, 1e-4, 2e-4, 1e-7, 0.0)


def calibrated() -> CalibratedProfile:
    prefill = (3e-4, 1e-4, 5e-4, 2e-5, 1e-4, 2e-4)
    return CalibratedProfile("x", StepTime(0.01, 0.003, prefill, (1e-3, 1e-5, 3e-4, 1e-4), 1e-7, 1e-8, 2e-9))


PROFILES = {name: get_profile(name) for name in profile_names()} | {"calibrated": calibrated()}


def shapes(count: int) -> list[BatchShape]:
    """Steps that the engine can run, the largest among them."""
    rng = random.Random(0)
    found: list[BatchShape] = []
    for number in range(count):
        num_decodes = rng.choice([0, 1, LIMITS.max_num_seqs, rng.randint(0, LIMITS.max_num_seqs)])
        room = LIMITS.max_num_batched_tokens - num_decodes
        num_prefills = rng.choice([0, 1, room, rng.randint(0, room), rng.randint(0, 600)])
        most = min(LIMITS.num_kv_tokens, num_decodes * LONGEST)
        context = rng.choice([num_decodes, most, rng.randint(0, most)])
        if num_prefills + num_decodes:
            pairs = rng.choice([0.5, 1.0, 100.0]) * num_prefills * number
            found.append(BatchShape(num_prefills, num_decodes, context, 0, pairs))
    return found


@pytest.mark.parametrize("name", PROFILES)
def test_no_step_is_quicker_than_its_prices(name: str) -> None:
    profile: LatencyModel = PROFILES[name]
    prices = best_prices(profile, LIMITS, TOTAL, LONGEST)
    assert min(prices) >= 0
    for shape in shapes(3000):
        cost_s = prices.cost_s(Work(shape[0], shape[1], shape[2], shape[4]))
        assert profile.predict_s(shape) >= max(cost_s, prices.step_s) * (1 - 1e-9), shape


def test_prices_are_the_highest_ones_where_these_are_known() -> None:
    """Where tokens cost the same in every step, its fixed part is best shared by the most tokens."""
    profile = LinearProfile("x", PLAIN, PLAIN, 512)
    prices = best_prices(profile, LIMITS, TOTAL, LONGEST)
    # 2048 tokens share 10 ms if 48 of them are decodes; all that decodes bring is at most what they cost.
    fewest_steps = TOTAL.num_prefill_tokens / 2000
    known_s = 2000e-4 + 200 * 2e-4 + 400_000e-7 + 0.01 * max(fewest_steps, 200 / 48, 400_000 / 60_000)
    assert prices.cost_s(TOTAL) == pytest.approx(known_s, rel=0.03)
    assert prices.cost_s(TOTAL) <= known_s * (1 + ENOUGH)


def test_work_that_has_no_decodes_is_priced_by_its_prefill() -> None:
    profile = LinearProfile("x", PLAIN, PLAIN, 512)
    prices = best_prices(profile, LIMITS, work_of(2048, 0, 1), LONGEST)
    assert prices.prefill_s == pytest.approx(1e-4 + 0.01 / 2048, rel=2 * ENOUGH)
    assert prices.decode_s == prices.context_s == 0


def test_work_of_a_request_is_what_its_steps_add_up_to() -> None:
    shape = BatchShape(0, 0).with_chunk(30, 10).with_chunk(60, 40)
    assert work_of(100, 10, 1) == (90, 0, 0, shape.attention_pairs)
    assert work_of(100, 0, 4) == (100, 3, 100 + 101 + 102, 5000)


def test_a_decode_is_no_dearer_than_to_compute_all_before_it_anew() -> None:
    prices = best_prices(calibrated(), LIMITS, Work(1.0, 1e6, 1e7, 1.0), LONGEST)
    assert prices.decode_s + 2 * prices.context_s <= 2 * prices.prefill_s * (1 + 1e-6)
    assert prices.context_s <= prices.prefill_s * (1 + 1e-6)
