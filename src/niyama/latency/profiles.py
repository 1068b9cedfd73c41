"""Fixed step-time models, by name: no learning, for the simulator and for reproducing the paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from niyama.latency.profilefile import load_calibration
from niyama.latency.search import ChunkSearch
from niyama.scheduling.policy import BatchShape

# Times this small are no prediction of any engine; keeps "> 0" true for odd coefficients.
MIN_STEP_S: Final = 1e-6


class LinearCost(NamedTuple):
    """Seconds per step, per token of each kind, and per token of context."""

    fixed: float
    per_token: float
    per_prefill_token: float
    per_decode_token: float
    per_decode_context: float
    per_prefill_context: float


class LinearProfile(ChunkSearch):
    """Two linear models of one step, for small and for large batches.

    Attributes:
        name: Device, model and parallelism, such as ``a100-80gb/llama-3-8b/tp1``.
        small: Costs up to `boundary_tokens` tokens in the step, decodes included.
        large: Costs beyond.
        boundary_tokens: Last size that counts as small.
        margin: Share of the prediction to add for safety, >= 0; the artifact has 0.2.
    """

    def __init__(
        self, name: str, small: LinearCost, large: LinearCost, boundary_tokens: int, margin: float = 0.2
    ) -> None:
        """Raise ValueError for a margin that is negative or not finite."""
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin: {margin!r} is not allowed; give a finite number >= 0")
        self.name = name
        self.small = small
        self.large = large
        self.boundary_tokens = boundary_tokens
        self.margin = margin

    def predict_s(self, shape: BatchShape) -> float:
        """Return the model's duration, seconds, > 0; the two models never let a longer chunk cost less.

        The fits disagree by a few per cent where they meet, so the large model starts no lower
        than the small one ends for the same decodes and contexts.
        """
        num_prefill_tokens, num_decode_tokens, _, _, _ = shape
        at_boundary = self.boundary_tokens - num_decode_tokens
        if num_prefill_tokens <= at_boundary:
            return max(MIN_STEP_S, _evaluate(self.small, shape, num_prefill_tokens))
        predicted_s = _evaluate(self.large, shape, num_prefill_tokens)
        if at_boundary >= 0:
            predicted_s = max(predicted_s, _evaluate(self.small, shape, at_boundary))
        return max(MIN_STEP_S, predicted_s)

    def margin_s(self, predicted_s: float) -> float:
        """Return the fixed share of the prediction."""
        return self.margin * predicted_s

    def _guess(self, shape: BatchShape, context: int, limit_s: float, max_tokens: int) -> int | None:
        """Solve each of the two models for the chunk; the last digits may be lost on the way."""
        limit_s = limit_s / (1.0 + self.margin)
        if limit_s == math.inf:
            return max_tokens
        empty = shape.with_chunk(0, context)
        num_tokens = _solve(self.small, empty, limit_s)
        to_boundary = self.boundary_tokens - shape.num_prefill_tokens - shape.num_decode_tokens
        if num_tokens >= to_boundary:
            num_tokens = max(to_boundary, _solve(self.large, empty, limit_s))
        return int(max(0, min(num_tokens, max_tokens)))

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        """Ignore the step: a profile is fixed."""

    def stats(self) -> dict[str, object]:
        """Return what the model is, for state pages and logs."""
        return {"model": "profile", "name": self.name, "margin": self.margin}


def _evaluate(cost: LinearCost, shape: BatchShape, num_prefill_tokens: int) -> float:
    fixed, per_token, per_prefill_token, per_decode_token, per_decode_context, per_prefill_context = cost
    _, num_decode_tokens, decode_context, prefill_context, _ = shape
    return (
        fixed
        + per_token * (num_prefill_tokens + num_decode_tokens)
        + per_prefill_token * num_prefill_tokens
        + per_decode_token * num_decode_tokens
        + per_decode_context * decode_context
        + per_prefill_context * prefill_context
    )


def _solve(cost: LinearCost, shape: BatchShape, limit_s: float) -> float:
    """Return how many more prefill tokens a step may have to last `limit_s`; may be negative."""
    room_s = limit_s - _evaluate(cost, shape, shape.num_prefill_tokens)
    token_s = cost.per_token + cost.per_prefill_token
    return room_s / token_s if token_s > 0 else math.copysign(math.inf, room_s)


_FACTORIES: dict[str, Callable[[float], ChunkSearch]] = {}


def register_profile(name: str, make: Callable[[float], ChunkSearch]) -> None:
    """Add a profile: `make` takes the margin as a share. Raises ValueError if the name is taken."""
    if name in _FACTORIES:
        raise ValueError(f"profile: {name!r} is registered already")
    _FACTORIES[name] = make


def profile_names() -> list[str]:
    """Return the known names, sorted."""
    return sorted(_FACTORIES)


def is_profile_file(name: str) -> bool:
    """Whether a profile's name is that of a file: it ends with ``.json``, or there is one."""
    return name not in _FACTORIES and (name.endswith(".json") or Path(name).is_file())


def get_profile(name: str, *, margin: float = 0.2) -> ChunkSearch:
    """Return the profile of that name, or in that file, with a safety margin, a share of the prediction >= 0.

    Raises:
        ValueError: The name is unknown (the message lists the known ones), the file holds no profile
            of `niyama calibrate`, or the margin is bad.
    """
    if name not in _FACTORIES:
        if is_profile_file(name):
            return load_calibration(name).profile(margin)
        known = ", ".join(profile_names())
        raise ValueError(f"profile: {name!r} is unknown; known: {known}, or a file of `niyama calibrate`")
    return _FACTORIES[name](margin)


def _a100_llama_3_8b(margin: float) -> LinearProfile:
    """Build the artifact's model of Llama-3-8B on one A100 (docs: the paper's artifact)."""
    return LinearProfile(
        name="a100-80gb/llama-3-8b/tp1",
        small=LinearCost(0.014936, 5.882475e-5, 2.247956e-5, 3.634519e-5, 1.111258e-7, 7.554773e-7),
        large=LinearCost(0.005004, 2.719050e-5, 6.863043e-5, -4.143993e-5, 1.663409e-7, 2.727223e-6),
        boundary_tokens=512,
        margin=margin,
    )


register_profile("a100-80gb/llama-3-8b/tp1", _a100_llama_3_8b)
