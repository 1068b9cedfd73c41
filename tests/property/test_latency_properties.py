"""What holds for every step-time model and every history (laws L7 and L8 rest on it)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from niyama.latency import ChunkSearch, OnlineModel, OutputLengthEstimator, get_profile
from niyama.latency.online import GRAIN_TOKENS
from niyama.scheduling.policy import BatchShape

COUNTS = st.integers(0, 20_000)
SHAPES = st.builds(
    BatchShape, COUNTS, COUNTS, st.integers(0, 10**8), st.integers(0, 10**6), st.floats(0, 1e10)
)
DURATIONS = st.one_of(st.floats(1e-5, 20.0), st.floats())
LIMITS = st.floats(-1, 5) | st.floats(allow_nan=False)
STEPS = st.lists(st.tuples(SHAPES, DURATIONS), max_size=60)


def _trained(steps: list[tuple[BatchShape, float]]) -> OnlineModel:
    model = OnlineModel()
    for shape, duration_s in steps:
        model.observe(shape, duration_s)
    return model


@settings(deadline=None)
@given(STEPS, SHAPES)
def test_online_prediction_any_history_is_finite_and_positive(
    steps: list[tuple[BatchShape, float]], shape: BatchShape
) -> None:
    model = _trained(steps)
    predicted_s = model.predict_s(shape)
    assert 0 < predicted_s < math.inf
    assert 0 <= model.margin_s(predicted_s) < math.inf


@settings(deadline=None)
@given(STEPS, SHAPES, SHAPES)
def test_online_prediction_larger_in_every_feature_is_never_shorter(
    steps: list[tuple[BatchShape, float]], shape: BatchShape, more: BatchShape
) -> None:
    model = _trained(steps)
    larger = BatchShape._make(a + b for a, b in zip(shape, more, strict=True))
    predicted_s, larger_s = model.predict_s(shape), model.predict_s(larger)
    assert larger_s >= predicted_s
    # Prediction plus margin is interpolated: the last bit may differ.
    assert larger_s + model.margin_s(larger_s) >= (predicted_s + model.margin_s(predicted_s)) * (1 - 1e-12)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 4000))
def test_what_time_cuts_off_ends_a_step_at_a_whole_grain(
    num_prefill: int, num_decodes: int, num_tokens: int
) -> None:
    model, shape = OnlineModel(), BatchShape(num_prefill, num_decodes)
    chunk = model.efficient_chunk(shape, 0, num_tokens)
    assert 1 <= chunk <= num_tokens
    assert chunk <= model.efficient_chunk(shape, 0, num_tokens + 1)
    assert num_tokens - chunk < GRAIN_TOKENS, "never a whole grain less"
    before = num_prefill + num_decodes
    is_within_one = before // GRAIN_TOKENS == (before + num_tokens) // GRAIN_TOKENS
    assert chunk == num_tokens if is_within_one else (before + chunk) % GRAIN_TOKENS == 0


class _Bisecting(ChunkSearch):
    """A profile without its closed form."""

    def __init__(self, profile: ChunkSearch) -> None:
        self._profile = profile

    def predict_s(self, shape: BatchShape) -> float:
        return self._profile.predict_s(shape)

    def margin_s(self, predicted_s: float) -> float:
        return self._profile.margin_s(predicted_s)

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        raise AssertionError

    def stats(self) -> Mapping[str, object]:
        return {}


def _assert_largest(
    model: ChunkSearch, shape: BatchShape, context: int, limit_s: float, max_tokens: int
) -> None:
    chunk = model.largest_chunk(shape, context, limit_s, max_tokens)
    assert 0 <= chunk <= max_tokens
    if chunk > 0:
        assert model.safe_s(shape.with_chunk(chunk, context)) <= limit_s
    if chunk < max_tokens:
        assert model.safe_s(shape.with_chunk(chunk + 1, context)) > limit_s


@settings(deadline=None)
@given(STEPS, SHAPES, st.integers(0, 30_000), LIMITS, st.integers(0, 8192))
def test_online_largest_chunk_fits_and_one_more_token_does_not(
    steps: list[tuple[BatchShape, float]], shape: BatchShape, context: int, limit_s: float, max_tokens: int
) -> None:
    _assert_largest(_trained(steps), shape, context, limit_s, max_tokens)


@settings(deadline=None)
@given(SHAPES, st.integers(0, 30_000), LIMITS, st.integers(0, 8192))
def test_profile_largest_chunk_fits_and_one_more_token_does_not(
    shape: BatchShape, context: int, limit_s: float, max_tokens: int
) -> None:
    _assert_largest(get_profile("a100-80gb/llama-3-8b/tp1"), shape, context, limit_s, max_tokens)


@st.composite
def _boundary_cases(draw: st.DrawFn) -> tuple[BatchShape, int, float, int]:
    """Draw a step with a limit at, or next to, what some chunk takes: where rounding decides."""
    shape = draw(st.builds(BatchShape, st.integers(0, 600), st.integers(0, 600), st.integers(0, 10**6)))
    context, chunk = draw(st.integers(0, 30_000)), draw(st.integers(1, 3000))
    limit_s = get_profile("a100-80gb/llama-3-8b/tp1").safe_s(shape.with_chunk(chunk, context))
    for _ in range(draw(st.integers(0, 3))):
        limit_s = math.nextafter(limit_s, draw(st.sampled_from([-1.0, 1.0])))
    return shape, context, limit_s, draw(st.integers(1, 8192))


@settings(deadline=None)
@given(_boundary_cases(), st.floats(0, 1))
def test_profile_closed_form_is_the_very_chunk_that_bisection_finds(
    case: tuple[BatchShape, int, float, int], margin: float
) -> None:
    profile = get_profile("a100-80gb/llama-3-8b/tp1", margin=margin)
    searched = _Bisecting(profile)
    assert profile.largest_chunk(*case) == searched.largest_chunk(*case)


NAMES = st.sampled_from(["a", "b", "c"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(NAMES, NAMES, st.integers(-5, 10**6)), max_size=80),
    NAMES,
    NAMES,
    st.integers(1, 10**5),
    st.integers(0, 10**5),
    st.none() | st.integers(-5, 10**7),
)
def test_expected_length_any_history_is_beyond_what_came_and_within_the_bound(
    answers: list[tuple[str, str, int]],
    qos_class: str,
    tenant: str,
    max_tokens: int,
    so_far: int,
    hint: int | None,
) -> None:
    estimator = OutputLengthEstimator(max_histories=2)
    for answer in answers:
        estimator.finished(*answer)
    expected = estimator.expect(qos_class, tenant, max_tokens, so_far, hint)
    assert 1 <= expected <= max_tokens
    assert expected > so_far or so_far >= max_tokens
