"""Least squares of relative errors in which stragglers weigh little and no coefficient is negative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from niyama.latency.leastsquares import solve_nonnegative

_ROUNDS = 12
_SWEEPS = 400
# Residuals beyond so many robust standard deviations count linearly (Huber's constant).
_HUBER = 1.345
_MIN_EXPECTED_S = 1e-6


def column_sizes(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each column's root mean square, 1 for a column of zeros; the fit works in columns of size 1."""
    sizes: NDArray[np.float64] = np.sqrt((rows**2).mean(axis=0))
    return np.where(sizes > 0.0, sizes, 1.0)


def fit_nonnegative(
    rows: NDArray[np.float64], durations: NDArray[np.float64], penalty: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the coefficients >= 0 by which the features explain the usual duration.

    Args:
        rows: Features, a row per duration.
        durations: Seconds, > 0.
        penalty: Matrix P of a quadratic penalty on the coefficients in columns of size 1, in median
            durations; weighs as much as one row per unit.

    Cost: 12 solutions, milliseconds for thousands of rows of a few features.
    """
    size = column_sizes(rows)
    scaled = rows / size
    median = float(np.median(durations))
    expected = durations.copy()
    weights = np.ones(len(durations))
    # A feature that no row shows stays at 0.
    values = np.where(scaled.any(axis=0), median / rows.shape[1], 0.0)
    for _ in range(_ROUNDS):
        weighted = scaled * (np.sqrt(weights) / expected)[:, None]
        targets = weighted.T @ (np.sqrt(weights) * durations / expected)
        products = weighted.T @ weighted
        if penalty is not None:
            products += penalty / median**2
        solved = solve_nonnegative(products.tolist(), targets.tolist(), values.tolist(), sweeps=_SWEEPS)
        values = np.array(solved)
        expected = np.maximum(scaled @ values, _MIN_EXPECTED_S)
        relative = np.abs(durations / expected - 1.0)
        spread = 1.4826 * float(np.median(relative)) + 1e-9
        weights = np.minimum(1.0, _HUBER * spread / np.maximum(relative, 1e-12))
    fitted: NDArray[np.float64] = values / size
    return fitted
