"""Least squares with coefficients that are never negative, from sums that forget per regime.

Plain recursive least squares with forgetting loses what it has not seen for a while. Here every
regime keeps its own decayed sums, which fade only when that regime is seen again: an hour of
decode steps takes nothing away from what is known of large chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from typing import Final

MAX_WEIGHT: Final = 1e6
"""How much a row may weigh before the sums are scaled back; far below what a float can hold."""


class Sums:
    """Decayed sums of one regime: X'X (upper triangle, row by row) and X'y.

    Rows weigh more and more, instead of what was summed before less and less: then a feature that is zero
    costs nothing, as half of them are in a step without prefill.

    Args:
        size: Number of features.
        window: Rows after which old ones fade, by 1/window per row; > 1.
    """

    __slots__ = ("_growth", "_products", "_starts", "_targets", "_weight", "num_rows", "window")

    def __init__(self, size: int, window: int) -> None:
        """Start empty."""
        self.window = window
        self.num_rows = 0
        self._weight = 1.0
        self._growth = 1.0 / (1.0 - 1.0 / window)
        # Where feature i's product with feature j stands: at _starts[i] + j.
        self._starts = [i * size - i * (i + 1) // 2 for i in range(size)]
        self._products = [0.0] * (size * (size + 1) // 2)
        self._targets = [0.0] * size

    @property
    def products(self) -> list[float]:
        """X'X, where the last row weighs one."""
        return [product / self._weight for product in self._products]

    @property
    def targets(self) -> list[float]:
        """X'y, where the last row weighs one."""
        return [target / self._weight for target in self._targets]

    def add(self, row: list[float], target: float) -> None:
        """Add one row, weighted by the caller. Cost: O(n^2) for n that are not zero, about a microsecond."""
        self.num_rows += 1
        if self.num_rows > self.window:
            self._weight *= self._growth
            if self._weight > MAX_WEIGHT:
                self._products, self._targets, self._weight = self.products, self.targets, 1.0
        places = [i for i in range(len(row)) if row[i] != 0.0]
        for n in range(len(places)):
            i = places[n]
            weighted, start = self._weight * row[i], self._starts[i]
            self._targets[i] += target * weighted
            for m in range(n, len(places)):
                j = places[m]
                self._products[start + j] += weighted * row[j]


def solve_nonnegative(
    products: Sequence[Sequence[float]],
    targets: Sequence[float],
    start: Sequence[float],
    *,
    sweeps: int,
) -> list[float]:
    """Minimise x'Px/2 - t'x over x >= 0 by coordinate descent from `start`.

    Args:
        products: P, symmetric, positive semidefinite; a zero diagonal leaves that x as it is.
        targets: t.
        start: First guess, >= 0; with a good one a few sweeps do.
        sweeps: Passes over all coordinates; each costs O(size^2).
    """
    solution = list(start)
    for _ in range(sweeps):
        for j, row in enumerate(products):
            diagonal = row[j]
            if diagonal > 0.0:
                gradient = targets[j] - sum(map(mul, row, solution))
                solution[j] = max(0.0, solution[j] + gradient / diagonal)
    return solution
