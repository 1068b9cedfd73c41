"""The fitted profiles' short cut to the largest chunk is the bisection, bit for bit."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from niyama.latency import ChunkSearch, FittedProfile, get_profile
from niyama.latency.fitted import FITTED, AllReduce, Engine, Kernels, step_costs
from niyama.scheduling.policy import BatchShape

COUNTS = st.integers(0, 20_000)
SHAPES = st.builds(
    BatchShape, COUNTS, COUNTS, st.integers(0, 10**8), st.integers(0, 10**6), st.floats(0, 1e10)
)
NAMES = st.sampled_from(sorted(FITTED))
# Times that steps of realistic sizes take, beside any other.
LIMITS = st.floats(0.01, 2.0) | st.floats(allow_nan=False)
MARGINS = st.sampled_from([0.0, 0.2, 1.7])


@given(NAMES, MARGINS, SHAPES, st.integers(0, 30_000), LIMITS, st.integers(-1, 20_000))
@example("h100-80gb/llama-3-70b/tp4", 0.2, BatchShape(0, 0), 0, math.inf, 8192)
@example("h100-80gb/llama-3-70b/tp4", 0.2, BatchShape(0, 0), 0, 0.1, 1)
def test_fitted_largest_chunk_is_the_bisections(
    name: str, margin: float, shape: BatchShape, context: int, limit_s: float, max_tokens: int
) -> None:
    model = get_profile(name, margin=margin)
    found = model.largest_chunk(shape, context, limit_s, max_tokens)
    assert found == ChunkSearch.largest_chunk(model, shape, context, limit_s, max_tokens)


@given(NAMES, SHAPES, st.integers(0, 30_000), st.integers(1, 20_000))
def test_fitted_largest_chunk_at_the_very_time_of_a_chunk_is_that_chunk(
    name: str, shape: BatchShape, context: int, num_tokens: int
) -> None:
    model = get_profile(name)
    limit_s = model.safe_s(shape.with_chunk(num_tokens, context))
    found = model.largest_chunk(shape, context, limit_s, 20_000)
    # Rounding may give some neighbours the same time when the shape is huge.
    assert found >= num_tokens
    assert model.safe_s(shape.with_chunk(found, context)) == limit_s


@given(NAMES, SHAPES, SHAPES)
def test_fitted_prediction_larger_in_every_feature_is_never_shorter(
    name: str, shape: BatchShape, more: BatchShape
) -> None:
    model = get_profile(name)
    larger = BatchShape._make(a + b for a, b in zip(shape, more, strict=True))
    assert 0 < model.predict_s(shape) <= model.predict_s(larger) < math.inf


@st.composite
def _kernels(draw: st.DrawFn) -> Kernels:
    tokens = sorted(draw(st.sets(st.integers(2, 5000), max_size=8)) | {1})
    # Whole microseconds, as tables hold; equal neighbours are flat pieces.
    rises = draw(st.lists(st.integers(0, 300), min_size=len(tokens), max_size=len(tokens)))
    times_s = tuple(1e-6 * (50 + sum(rises[: i + 1])) for i in range(len(rises)))
    reduction = st.builds(AllReduce, st.floats(0, 1e-4), st.floats(0, 1e-4), st.floats(1e9, 1e12))
    return Kernels(tuple(tokens), times_s, (1e-6, 1e-8), draw(st.none() | reduction))


@given(_kernels(), st.integers(0, 6000), st.integers(0, 6000))
def test_kernels_any_rising_table_never_falls(kernels: Kernels, few: int, more: int) -> None:
    few, more = sorted((few, more))
    assert kernels.layer_s(few) <= kernels.layer_s(more)


def test_profiles_of_one_name_share_their_tables() -> None:
    """A fleet of 64 replicas asks 64 times."""
    name = "a100-80gb/llama-2-7b/tp2"
    one, other = get_profile(name), get_profile(name, margin=0.5)
    assert isinstance(one, FittedProfile)
    assert isinstance(other, FittedProfile)
    assert one.costs is other.costs
    engine = Engine(0.0, 0.0, 1.0, 1.0, 1.0)
    assert step_costs(FITTED[name], Kernels((1,), (1e-4,), (0.0, 0.0), None), engine) != one.costs
