"""Fits a `StepTime` to measured steps: robust least squares of relative errors, no coefficient negative."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from niyama.latency.calibrated import DECODE_KNOTS, PREFILL_KNOTS, StepTime
from niyama.latency.robust import column_sizes, fit_nonnegative
from niyama.latency.spread import NO_STALLS, Spread, Stalls
from niyama.scheduling.policy import BatchShape

MIN_STEPS = 50
"""Fewer steps fit nothing."""

SMALL_CHUNK_TOKENS = 256
REGIMES = ("decode only", "mixed small", "mixed large", "prefill only")
"""Mixed steps are large with more prefill tokens than `SMALL_CHUNK_TOKENS`."""

# Weight of "two neighbouring slopes are alike" against one step; decides only where steps are missing.
_SMOOTHNESS = 0.3
STALLED = 2.0
"""A step that takes this many times as long as predicted was interrupted."""


class Sample(NamedTuple):
    """A step that ran."""

    shape: BatchShape
    duration_s: float


def regime_of(shape: BatchShape) -> str:
    """Return which of `REGIMES` a step belongs to."""
    if not shape.num_prefill_tokens:
        return REGIMES[0]
    if not shape.num_decode_tokens:
        return REGIMES[3]
    return REGIMES[1] if shape.num_prefill_tokens <= SMALL_CHUNK_TOKENS else REGIMES[2]


def fit_steps(samples: Sequence[Sample], min_steps: int = MIN_STEPS) -> StepTime:
    """Return the costs under which all steps together take as long as they did.

    The fit itself goes by the usual step; what stragglers add is spread over all steps in proportion.

    Raises:
        ValueError: there are too few steps, or a duration is not > 0.

    Cost: about a second for ten thousand steps.
    """
    if len(samples) < min_steps:
        raise ValueError(f"steps: {len(samples)} are too few to fit; give a log with at least {min_steps}")
    rows = np.array([StepTime.features(sample.shape) for sample in samples])
    durations = np.array([sample.duration_s for sample in samples])
    if not (durations > 0).all():
        raise ValueError("steps: a duration is not > 0; give steps that took time")
    size = column_sizes(rows)
    values = fit_nonnegative(rows, durations, _SMOOTHNESS * _smoothness(size))
    predicted = rows @ values
    factor = float(durations.sum() / predicted.sum())
    return StepTime.of_values([float(value) for value in factor * values])


def scatter_of(step: StepTime, samples: Sequence[Sample]) -> tuple[dict[str, Spread], Stalls]:
    """Return how steps scatter around their prediction, by regime, and the stalls.

    Of a step that took more than `STALLED` times as long as predicted, the rest was a stall.
    """
    ratios: dict[str, list[float]] = {name: [] for name in REGIMES}
    stalls: list[float] = []
    predicted_total_s = 0.0
    for shape, duration_s in samples:
        predicted_s = step.predict_s(shape)
        predicted_total_s += predicted_s
        ratios[regime_of(shape)].append(min(duration_s / predicted_s, STALLED))
        if duration_s > STALLED * predicted_s:
            stalls.append(duration_s - STALLED * predicted_s)
    spreads = {name: Spread.of(some) for name, some in ratios.items() if some}
    if not stalls:
        return spreads, NO_STALLS
    # At most one stall falls on a step, so the rate is a little higher than their number says.
    share = len(stalls) / len(samples)
    per_s = -math.log1p(-min(share, 0.999)) * len(samples) / predicted_total_s
    return spreads, Stalls(per_s, Spread.of(stalls))


def errors_by_regime(step: StepTime, samples: Sequence[Sample]) -> dict[str, dict[str, float | int | None]]:
    """Return how well steps are predicted, for `all` and each regime.

    `mean_abs_error_share` is the mean absolute error over the mean duration, `bias_share` the mean
    signed one (positive: predicted too long), `median_abs_error_share` the median relative error.
    """
    by_regime: dict[str, list[Sample]] = {name: [] for name in REGIMES}
    for sample in samples:
        by_regime[regime_of(sample.shape)].append(sample)
    return {name: _errors(step, some) for name, some in [("all", samples), *by_regime.items()]}


def _errors(step: StepTime, samples: Sequence[Sample]) -> dict[str, float | int | None]:
    names = ("mean_step_s", "mean_abs_error_share", "bias_share", "median_abs_error_share")
    if not samples:
        return {"steps": 0, **dict.fromkeys(names)}
    durations = np.array([sample.duration_s for sample in samples])
    errors = np.array([step.predict_s(sample.shape) for sample in samples]) - durations
    mean_s = float(durations.mean())
    figures = (
        mean_s,
        float(np.abs(errors).mean()) / mean_s,
        float(errors.mean()) / mean_s,
        float(np.median(np.abs(errors) / durations)),
    )
    return {"steps": len(samples), **dict(zip(names, figures, strict=True))}


def _smoothness(size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the penalty on differing slopes next to each other, for columns of those sizes."""
    penalty = np.zeros((len(size), len(size)))
    begin = 2
    for knots in (PREFILL_KNOTS, DECODE_KNOTS):
        for place in range(begin, begin + len(knots)):
            width = float(knots[place - begin])
            difference = np.zeros(len(size))
            difference[place] = width / size[place]
            difference[place + 1] = -width / size[place + 1]
            penalty += np.outer(difference, difference)
        begin += len(knots) + 1
    return penalty
