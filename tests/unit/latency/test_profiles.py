from __future__ import annotations

import math

import pytest

from niyama.latency import get_profile, profile_names, register_profile
from niyama.latency.profiles import LinearProfile
from niyama.scheduling.policy import BatchShape

A100 = "a100-80gb/llama-3-8b/tp1"


def test_a100_profile_small_batch_gives_the_published_sum() -> None:
    shape = BatchShape(
        num_prefill_tokens=256, num_decode_tokens=64, decode_context=64_000, prefill_context=1000
    )

    expected_s = 0.014936 + 5.882475e-5 * 320 + 2.247956e-5 * 256 + 3.634519e-5 * 64
    expected_s += 1.111258e-7 * 64_000 + 7.554773e-7 * 1000
    assert get_profile(A100).predict_s(shape) == pytest.approx(expected_s, rel=1e-12)


def test_a100_profile_large_batch_gives_the_published_sum() -> None:
    shape = BatchShape(
        num_prefill_tokens=2000, num_decode_tokens=32, decode_context=32_000, prefill_context=500
    )

    expected_s = 0.005004 + 2.719050e-5 * 2032 + 6.863043e-5 * 2000 - 4.143993e-5 * 32
    expected_s += 1.663409e-7 * 32_000 + 2.727223e-6 * 500
    assert get_profile(A100).predict_s(shape) == pytest.approx(expected_s, rel=1e-12)


def test_a100_profile_longer_chunk_never_costs_less() -> None:
    model = get_profile(A100)
    for num_decodes in (0, 60, 512, 700):
        decodes = BatchShape(0, num_decodes, num_decodes * 900)
        times_s = [model.predict_s(decodes.with_chunk(n, 0)) for n in range(1, 1200)]
        assert times_s == sorted(times_s)


def test_profile_margin_is_the_artifacts_unless_configured() -> None:
    assert get_profile(A100).margin_s(0.05) == pytest.approx(0.01)
    assert get_profile(A100, margin=0.0).margin_s(0.05) == 0.0


@pytest.mark.parametrize("margin", [-0.1, math.inf, math.nan])
def test_profile_bad_margin_is_refused_by_name_and_value(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin: (-0.1|inf|nan) is not allowed"):
        get_profile(A100, margin=margin)


def test_get_profile_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"profile: 'h100' is unknown; known: .*a100-80gb/llama-3-8b/tp1"):
        get_profile("h100")


def test_register_profile_taken_name_is_refused() -> None:
    assert A100 in profile_names()
    with pytest.raises(ValueError, match="registered already"):
        register_profile(A100, lambda margin: get_profile(A100, margin=margin))


def test_profile_observe_changes_nothing() -> None:
    model = get_profile(A100)
    assert isinstance(model, LinearProfile)
    shape = BatchShape(100, 10, 1000)
    before_s = model.predict_s(shape)
    model.observe(shape, 3.0)
    assert model.predict_s(shape) == before_s


def test_profile_largest_chunk_is_the_last_that_fits() -> None:
    model = get_profile(A100)
    decodes = BatchShape(0, 40, 40_000)
    chunk = model.largest_chunk(decodes, 0, 0.1, 8192)
    assert model.safe_s(decodes.with_chunk(chunk, 0)) <= 0.1 < model.safe_s(decodes.with_chunk(chunk + 1, 0))


def test_profile_largest_chunk_without_time_or_tokens_is_zero() -> None:
    model = get_profile(A100)
    assert model.largest_chunk(BatchShape(0, 1, 10), 0, 0.001, 512) == 0
    assert model.largest_chunk(BatchShape(0, 1, 10), 0, -math.inf, 512) == 0
    assert model.largest_chunk(BatchShape(0, 1, 10), 0, math.inf, 0) == 0


def test_profile_largest_chunk_with_all_the_time_is_the_bound() -> None:
    assert get_profile(A100).largest_chunk(BatchShape(0, 1, 10), 0, math.inf, 513) == 513
