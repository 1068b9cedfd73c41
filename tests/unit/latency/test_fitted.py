from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from niyama.latency import FittedProfile, get_profile, kv_tokens, register_profile
from niyama.latency.deployments import (
    A100_LLAMA_2_7B,
    A100_LLAMA_3_8B,
    H100_LLAMA_3_70B,
    register_kv_tokens,
)
from niyama.latency.fitted import FITTED, TABLE_TOKENS, AllReduce, Engine, Kernels, step_costs
from niyama.scheduling.policy import BatchShape

ROOT = Path(__file__).parents[3]
PROFILED = ROOT.parent / "shared" / "data" / "profiles"
ARTIFACT = "a100-80gb/llama-3-8b/tp1"
SMALL_MODEL = "a100-80gb/llama-2-7b/tp2"
LARGE_MODEL = "h100-80gb/llama-3-70b/tp4"
NAMES = sorted(FITTED)
SIZES = [*range(1, 1100), *range(1100, 9000, 13), *range(TABLE_TOKENS - 40, TABLE_TOKENS + 40), 40_000]


def prefill(num_tokens: int, context: int = 0, decodes: int = 0, each: int = 0) -> BatchShape:
    return BatchShape(0, decodes, decodes * each).with_chunk(num_tokens, context)


def decode(num_decodes: int, each: int) -> BatchShape:
    return BatchShape(0, num_decodes, num_decodes * each)


@pytest.mark.parametrize("name", NAMES)
def test_fitted_profile_longer_chunk_never_costs_less(name: str) -> None:
    model = get_profile(name)
    for decodes in (0, 63, 500):
        times_s = [model.predict_s(prefill(n, 700, decodes, 900)) for n in SIZES]
        assert all(shorter < longer for shorter, longer in pairwise(times_s))


@pytest.mark.parametrize("name", NAMES)
def test_fitted_profile_more_decodes_or_context_cost_more(name: str) -> None:
    model = get_profile(name)
    by_decodes = [model.predict_s(decode(n, 800)) for n in range(1, 257)]
    by_context = [model.predict_s(decode(32, c)) for c in range(0, 8000, 100)]
    by_prefix = [model.predict_s(prefill(256, c)) for c in range(0, 8000, 100)]
    for times_s in (by_decodes, by_context, by_prefix):
        assert all(less < more for less, more in pairwise(times_s))


@pytest.mark.parametrize(
    "shape", [decode(1, 100), decode(64, 200), prefill(256), prefill(2048, 1000, 32, 900)]
)
def test_fitted_profile_seventy_billion_parameters_are_slower_on_twice_the_gpus(shape: BatchShape) -> None:
    """Though an H100 is faster: ten times the parameters. Long contexts are the small model's burden."""
    assert get_profile(SMALL_MODEL).predict_s(shape) < get_profile(LARGE_MODEL).predict_s(shape)


def test_fitted_profile_second_gpu_speeds_up_large_prefills() -> None:
    """Llama-3-8B is the larger of the two by a fifth: a second GPU must give more than that."""
    one_s = get_profile("a100-80gb/llama-3-8b/tp1-fitted").predict_s(prefill(4096))
    two_s = get_profile(SMALL_MODEL).predict_s(prefill(4096))
    assert one_s / 2 / 1.4 < two_s < one_s / 1.2


@pytest.mark.parametrize("name", NAMES)
def test_fitted_profile_no_step_beats_the_gpus_data_sheet(name: str) -> None:
    model, deployment = get_profile(name), FITTED[name]
    gpu, num_gpus = deployment.gpu, deployment.tensor_parallel
    weights_s = deployment.model.num_params * 2 / num_gpus / gpu.bytes_per_s
    operations_s = deployment.model.num_params * 2 * 4096 / num_gpus / gpu.flops
    # The input embedding's rows and, in a prefill, the output layer are in the parameters but hardly used.
    assert 0.85 * weights_s < model.predict_s(decode(1, 1))
    assert 0.85 * operations_s < model.predict_s(prefill(4096)) < 4 * operations_s


def test_fitted_llama_3_8b_is_the_artifacts_model_within_a_fifth() -> None:
    """The artifact's model is what the engine's part is calibrated to; docs/profiles.md has the ratios."""
    fitted, artifact = get_profile(f"{ARTIFACT}-fitted"), get_profile(ARTIFACT)
    shapes = [decode(n, c) for n in (8, 32, 128) for c in (500, 2000)]
    shapes += [prefill(p, 500, n, 1000) for p in (256, 1024, 2048) for n in (0, 32, 64)]
    ratios = [fitted.predict_s(shape) / artifact.predict_s(shape) for shape in shapes]
    assert all(0.8 < ratio < 1.2 for ratio in ratios)
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.05)


def test_step_costs_add_up_from_their_parts() -> None:
    kernels = Kernels((1, 101), (1e-4, 3e-4), (1e-5, 1e-7), AllReduce(2e-5, 1e-5, 1e11))
    costs = step_costs(A100_LLAMA_2_7B, kernels, Engine(0.004, 3e-5, 1.25, 0.5, 0.6))
    model = FittedProfile("parts", costs, 0.0)

    all_reduce_s = max(2e-5, 1e-5 + 51 * 4096 * 2 / 1e11)
    expected_s = 0.004 + 40 * 3e-5 + 32 * (1.25 * 2e-4 + 2 * all_reduce_s) + 1e-5 + 51 * 1e-7
    expected_s += 32_000 * 4096 * 2 / 2 / 2.039e12
    expected_s += (40 * 500 + 700) * 524_288 / 2 / (0.5 * 2.039e12)
    expected_s += 11 * (700 + 5.5) * 4 * 32 * 128 * 32 / 2 / (0.6 * 312e12)
    assert model.predict_s(prefill(11, 700, 40, 500)) == pytest.approx(expected_s, rel=1e-12)


def test_kernels_beyond_the_last_knot_keep_the_time_per_token() -> None:
    kernels = Kernels((1, 100), (1e-4, 2e-4), (0.0, 0.0), None)
    assert kernels.layer_s(0) == kernels.layer_s(1) == 1e-4
    assert kernels.layer_s(100) == 2e-4
    assert kernels.layer_s(1000) == pytest.approx(2e-3)


@pytest.mark.parametrize("margin", [-0.1, math.inf, math.nan])
def test_fitted_profile_bad_margin_is_refused_by_name_and_value(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin: (-0.1|inf|nan) is not allowed"):
        get_profile(SMALL_MODEL, margin=margin)


def test_fitted_profile_observe_changes_nothing() -> None:
    model = get_profile(LARGE_MODEL)
    before_s = model.predict_s(prefill(100))
    model.observe(prefill(100), 3.0)
    assert model.predict_s(prefill(100)) == before_s
    assert model.stats() == {"model": "profile", "name": LARGE_MODEL, "margin": 0.2}


def test_kv_tokens_are_what_the_weights_leave() -> None:
    assert kv_tokens(ARTIFACT) == kv_tokens(f"{ARTIFACT}-fitted") == A100_LLAMA_3_8B.num_kv_tokens == 425_000
    assert kv_tokens(SMALL_MODEL) == A100_LLAMA_2_7B.num_kv_tokens == 245_000
    assert kv_tokens(LARGE_MODEL) == H100_LLAMA_3_70B.num_kv_tokens == 445_000


def test_kv_tokens_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"profile: 'h100' is unknown; known: .*h100-80gb/llama-3-70b/tp4"):
        kv_tokens("h100")


def test_kv_tokens_of_an_own_profile_must_be_registered_once() -> None:
    register_profile("own/kv", lambda margin: get_profile(ARTIFACT, margin=margin))
    with pytest.raises(ValueError, match="kv_tokens: not known for profile 'own/kv'"):
        kv_tokens("own/kv")
    with pytest.raises(ValueError, match="kv_tokens: 0 is not allowed"):
        register_kv_tokens("own/kv", 0)
    register_kv_tokens("own/kv", 1000)
    assert kv_tokens("own/kv") == 1000
    with pytest.raises(ValueError, match="has 1000 already"):
        register_kv_tokens("own/kv", 2000)


@pytest.mark.skipif(not PROFILED.is_dir(), reason="needs the profiles beside the repository")
def test_committed_tables_are_what_the_script_fits() -> None:
    script = ROOT / "scripts" / "fit_profiles.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(
        [sys.executable, str(script), str(PROFILED), "--check"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
