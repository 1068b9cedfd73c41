from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from niyama.latency import OnlineModel
from niyama.scheduling.policy import BatchShape

# Steps of stock vLLM 0.32 on two CPU cores, demo model in float32, behind its HTTP server: bursts, idle
# gaps and changes of load, prompts of 50-3000 tokens, a token budget that varies from step to step.
RECORDED = Path(__file__).parents[2] / "data" / "steps_cpu.jsonl.gz"


def _cpu_s(shape: BatchShape) -> float:
    """A made-up machine whose costs add up."""
    prefill_s = 2.2e-3 + 6.5e-5 * shape.num_prefill_tokens + 3.6e-8 * shape.attention_pairs
    decode_s = 1e-4 * shape.num_decode_tokens + 4.3e-7 * shape.decode_context
    return 2.9e-3 + decode_s + (prefill_s if shape.num_prefill_tokens else 0.0)


def _roofline_s(shape: BatchShape) -> float:
    """A made-up GPU: reading the weights takes as long as computing some hundred tokens."""
    num_tokens = shape.num_prefill_tokens + shape.num_decode_tokens
    linear_s = max(12e-3 + 5e-6 * num_tokens, 2e-3 + 9e-5 * num_tokens)
    return linear_s + 1.2e-7 * shape.decode_context + 8e-9 * shape.attention_pairs


def _decodes(rng: random.Random) -> BatchShape:
    num_decodes = rng.randrange(1, 40)
    return BatchShape(0, num_decodes, num_decodes * rng.randrange(100, 3000))


def _chunks(rng: random.Random) -> BatchShape:
    shape = _decodes(rng)
    for _ in range(rng.randrange(1, 4)):
        shape = shape.with_chunk(int(2 ** rng.uniform(0, 10.5)), rng.choice([0, 0, rng.randrange(3000)]))
    return shape


def _mixed(rng: random.Random) -> BatchShape:
    return _decodes(rng) if rng.random() < 0.7 else _chunks(rng)


def _busy(rng: random.Random) -> BatchShape:
    """Few kinds of steps, each often."""
    num_decodes = rng.randrange(10, 90)
    shape = BatchShape(0, num_decodes, num_decodes * rng.randrange(300, 900))
    return shape.with_chunk(rng.choice([64, 128, 256, 512, 900]), 800) if rng.random() < 0.6 else shape


class _Drive:
    """Feeds a model with noisy steps of a made-up machine and keeps score."""

    def __init__(self, machine: Callable[[BatchShape], float], model: OnlineModel) -> None:
        self.machine = machine
        self.model = model
        self.rng = random.Random(3)

    def error(
        self,
        num_steps: int,
        shapes: Callable[[random.Random], BatchShape],
        *,
        slower: float = 1.0,
        learn: bool = True,
        stalls: float = 0.0,
        noise: float = 0.05,
    ) -> float:
        """Run steps; return mean absolute error over mean duration, stalls not counted."""
        error_s = total_s = 0.0
        for _ in range(num_steps):
            shape = shapes(self.rng)
            duration_s = self.machine(shape) * slower * self.rng.lognormvariate(0.0, noise)
            error_s += abs(self.model.predict_s(shape) - duration_s)
            total_s += duration_s
            if learn:
                self.model.observe(shape, 10.0 if self.rng.random() < stalls else duration_s)
        return error_s / total_s


@pytest.fixture(params=[_cpu_s, _roofline_s, lambda shape: 40 * _cpu_s(shape)], ids=["cpu", "gpu", "slow"])
def drive(request: pytest.FixtureRequest) -> _Drive:
    return _Drive(request.param, OnlineModel())


def test_online_model_mixed_steps_is_near_the_noise_after_a_few_hundred(drive: _Drive) -> None:
    drive.error(300, _mixed)
    assert drive.error(500, _mixed) < 0.07


def test_online_model_stalls_do_not_ruin_it(drive: _Drive) -> None:
    drive.error(500, _mixed)
    assert drive.error(1000, _mixed, stalls=0.02) < 0.08


def test_online_model_first_step_stalled_is_forgotten(drive: _Drive) -> None:
    drive.model.observe(BatchShape(0, 1, 10), 10.0)
    drive.error(60, _mixed)
    assert drive.error(200, _mixed) < 0.1


def test_online_model_hours_of_decodes_keep_what_is_known_of_chunks(drive: _Drive) -> None:
    drive.error(1500, _mixed)
    before = drive.error(300, _chunks, learn=False)
    drive.error(20_000, _decodes)
    assert drive.error(300, _chunks, learn=False) < before + 0.03


def test_online_model_slower_machine_is_followed_within_some_hundred_steps(drive: _Drive) -> None:
    drive.error(2000, _mixed)
    drive.error(300, _mixed, slower=2.0)
    assert drive.error(300, _mixed, slower=2.0) < 0.08


def test_online_model_speed_seen_in_decodes_first_is_soon_followed_for_chunks(drive: _Drive) -> None:
    drive.error(2000, _mixed)
    drive.error(400, _decodes, slower=2.0)
    drive.error(60, _chunks, slower=2.0)
    assert drive.error(200, _chunks, slower=2.0) < 0.12


def test_online_model_slow_decodes_alone_hardly_change_what_is_known_of_chunks(drive: _Drive) -> None:
    drive.error(2000, _mixed)
    only_chunk = BatchShape(0, 0).with_chunk(1024, 0)
    before_s = drive.model.predict_s(only_chunk)
    drive.error(400, _decodes, slower=2.0)
    assert before_s < drive.model.predict_s(only_chunk) < 1.6 * before_s


def test_online_model_noise_alone_does_not_move_its_speeds_in_the_long_run(drive: _Drive) -> None:
    drive.error(40_000, _busy, noise=0.3)
    slowness: Any = drive.model.stats()["slowness"]
    assert all(0.6 < one < 1.6 for one in slowness), slowness


@pytest.mark.parametrize("duration_s", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e-12, 1e6])
def test_online_model_impossible_duration_is_ignored(duration_s: float) -> None:
    model = OnlineModel()
    _Drive(_cpu_s, model).error(100, _mixed)
    before = model.stats()
    model.observe(BatchShape(100, 4, 4000), duration_s)
    assert model.stats() == before


def test_online_model_empty_step_is_ignored() -> None:
    model = OnlineModel()
    model.observe(BatchShape(0, 0), 0.01)
    assert model.stats()["num_steps"] == 0


def test_online_model_same_steps_give_the_same_model() -> None:
    models = OnlineModel(), OnlineModel()
    for model in models:
        _Drive(_cpu_s, model).error(700, _mixed, stalls=0.01)
    assert models[0].stats() == models[1].stats()


def test_online_model_stats_are_plain_and_tell_the_error() -> None:
    model = OnlineModel()
    drive = _Drive(_cpu_s, model)
    assert model.stats()["mean_abs_error_share"] == 0.0
    drive.error(1000, _mixed)
    stats = json.loads(json.dumps(model.stats()))
    assert stats["num_steps"] == 1000
    assert stats["mean_abs_error_share"] == pytest.approx(drive.error(300, _mixed), abs=0.02)
    assert 0 <= stats["late_share"] < 0.12
    assert stats["coefficients"]["prefill"] == pytest.approx(6.5e-5, rel=0.1)


def test_online_model_closed_form_agrees_with_bisection() -> None:
    model = OnlineModel(knee_tokens=200)
    drive = _Drive(_roofline_s, model)
    drive.error(1500, _mixed)
    answers = set()
    for _ in range(300):
        shape, context = _mixed(drive.rng), drive.rng.randrange(3000)
        limit_s = drive.rng.uniform(0.0, 0.3)
        chunk = model.largest_chunk(shape, context, limit_s, 2048)
        assert chunk == super(OnlineModel, model).largest_chunk(shape, context, limit_s, 2048)
        answers.add(chunk)
    assert len(answers) > 100


def _recorded_steps() -> Iterator[tuple[BatchShape, float]]:
    with gzip.open(RECORDED, "rt") as log:
        for step in map(json.loads, log):
            yield BatchShape(*(step[name] for name in BatchShape._fields)), step["duration_s"]


def test_online_model_recorded_vllm_steps_are_predicted_within_the_promise() -> None:
    model = OnlineModel()
    error_s = total_s = 0.0
    num_late = num_judged = 0
    for number, (shape, duration_s) in enumerate(_recorded_steps()):
        predicted_s = model.predict_s(shape)
        if number >= 300:
            error_s += abs(predicted_s - duration_s)
            total_s += duration_s
            num_late += duration_s > predicted_s + model.margin_s(predicted_s)
            num_judged += 1
        model.observe(shape, duration_s)
    assert num_judged > 3000
    assert error_s / total_s <= 0.12
    assert num_late / num_judged <= 0.05
