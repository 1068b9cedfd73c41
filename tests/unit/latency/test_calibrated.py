from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyama.latency import get_profile, kv_tokens
from niyama.latency.calibrated import StepTime
from niyama.latency.profilefile import (
    Calibration,
    Delay,
    HandOn,
    Overheads,
    ProfileFileError,
    load_calibration,
)
from niyama.latency.spread import Scatter, Spread
from niyama.scheduling.policy import BatchShape

COSTS = st.floats(0, 1e-2)
STEPS = st.builds(
    StepTime,
    fixed=COSTS,
    mixed=COSTS,
    prefill=st.tuples(*[COSTS] * 6),
    decode=st.tuples(*[COSTS] * 4),
    decode_context=COSTS,
    prefill_context=COSTS,
    attention=COSTS,
)
SPREAD = Spread((0.5, 1.0, 3.0), 0.4)
CALIBRATION = Calibration(
    name="mine",
    step=StepTime(4e-3, 5e-4, (1e-4,) * 6, (3e-4,) * 4, 1e-7, 2e-7, 3e-8),
    spreads={"decode only": SPREAD},
    overheads=Overheads(Delay(1e-3, 2e-5, 3e-6, SPREAD), Delay(2e-3), HandOn(Delay(1e-3), Delay(5e-4), 0.5)),
    errors={"all": {"steps": 7}},
    engine={"num_kv_tokens": 1000},
    sources=("run",),
)


@given(step=STEPS, tokens=st.integers(1, 3000), decodes=st.integers(0, 300), context=st.integers(0, 5000))
def test_a_longer_chunk_is_never_quicker(step: StepTime, tokens: int, decodes: int, context: int) -> None:
    before = BatchShape(0, decodes, decodes * 100)
    shorter, longer = (step.predict_s(before.with_chunk(n, context)) for n in (tokens, tokens + 1))
    assert 0 < shorter <= longer
    assert step.predict_s(before) <= shorter


@given(step=STEPS, prefill=st.integers(0, 3000), decodes=st.integers(0, 300))
def test_the_prediction_is_the_sum_of_its_features(step: StepTime, prefill: int, decodes: int) -> None:
    shape = BatchShape(0, decodes, 50 * decodes)
    if prefill:
        shape = shape.with_chunk(prefill, 30)
    total_s = sum(a * b for a, b in zip(step.values(), StepTime.features(shape), strict=True))
    assert step.predict_s(shape) == pytest.approx(max(1e-6, total_s))
    assert StepTime.of_values(step.values()) == step


@given(limit_s=st.floats(1e-3, 1.0), context=st.integers(0, 2000))
def test_the_largest_chunk_fits_and_one_token_more_does_not(limit_s: float, context: int) -> None:
    profile, shape = CALIBRATION.profile(0.1), BatchShape(0, 8, 800)
    chunk = profile.largest_chunk(shape, context, limit_s, 4096)
    assert chunk == 0 or profile.safe_s(shape.with_chunk(chunk, context)) <= limit_s
    assert chunk == 4096 or profile.safe_s(shape.with_chunk(chunk + 1, context)) > limit_s


def test_a_file_holds_all_of_a_calibration(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(CALIBRATION.to_json())
    assert load_calibration(path) == CALIBRATION
    profile = get_profile(str(path), margin=0.3)
    shape = BatchShape(100, 3, 50)
    assert profile.predict_s(shape) == CALIBRATION.step.predict_s(shape)
    assert kv_tokens(str(path)) == 1000
    assert profile.stats() == {"model": "profile", "name": "mine", "margin": 0.3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "no profile; give a file that `niyama calibrate` wrote"),
        ({"step": {}}, "fixed: missing"),
        ({"step": {**CALIBRATION.step.to_mapping(), "fixed": -1}}, "fixed: -1 is not a cost"),
        ({"step": {**CALIBRATION.step.to_mapping(), "fixed": "1"}}, "fixed: '1' is not a cost"),
        ({"step": {**CALIBRATION.step.to_mapping(), "prefill": [1.0]}}, "prefill: give rising knots"),
        ({"spreads": {"all": {"quantiles": [2, 1], "memory": 0}}}, "quantiles: give a rising list"),
        ({"spreads": {"all": {"quantiles": [1], "memory": 1}}}, "memory: 1.0 is no correlation"),
        ({"overheads": 3}, "profile: "),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**json.loads(CALIBRATION.to_json()), **change}))
    with pytest.raises(ProfileFileError) as caught:
        get_profile(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"profile: .*none.json: cannot be read"):
        get_profile(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=r"profile: 'h900' is unknown; known: a100-80gb/.*, or a file"):
        get_profile("h900")


def test_draws_have_the_spread_and_the_memory_of_what_was_seen() -> None:
    rng, seen, score = random.Random(0), [], 0.0
    for _ in range(8000):
        score = 0.6 * score + 0.8 * rng.gauss(0, 1)
        seen.append(2.0 + max(-1.5, score))
    spread = Spread.of(seen)
    assert spread.memory == pytest.approx(0.6, abs=0.03)
    scatter = Scatter(random.Random(1))
    again = Spread.of([scatter.draw(spread) for _ in range(8000)])
    assert again.memory == pytest.approx(spread.memory, abs=0.04)
    for share in (0.1, 0.5, 0.9, 0.99):
        assert again.quantile(share) == pytest.approx(spread.quantile(share), rel=0.05)


def test_no_spread_draws_nothing() -> None:
    rng = random.Random(0)
    scatter = Scatter(rng)
    state = rng.getstate()
    assert scatter.draw(Spread()) == 1.0
    assert rng.getstate() == state
