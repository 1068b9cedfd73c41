"""Least squares with coefficients that are never negative, from sums that forget per regime.

Plain recursive least squares with forgetting loses what it has not seen for a while. Here every
regime keeps its own decayed sums, which fade only when that regime is seen again: an hour of
decode steps takes nothing away from what is known of large chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul


class Sums:
    """Decayed sums of one regime: X'X (upper triangle, row by row) and X'y.

    Args:
        size: Number of features.
        window: Rows after which old ones fade, by 1/window per row.
    """

    __slots__ = ("num_rows", "products", "targets", "window")

    def __init__(self, size: int, window: int) -> None:
        """Start empty."""
        self.window = window
        self.num_rows = 0
        self.products = [0.0] * (size * (size + 1) // 2)
        self.targets = [0.0] * size

    def add(self, row: Sequence[float], target: float) -> None:
        """Add one row, weighted by the caller. Cost: O(size^2), a few microseconds."""
        self.num_rows += 1
        keep = 1.0 - 1.0 / self.window if self.num_rows > self.window else 1.0
        products, targets = self.products, self.targets
        place = 0
        for i, a in enumerate(row):
            targets[i] = keep * targets[i] + target * a
            for b in row[i:]:
                products[place] = keep * products[place] + a * b
                place += 1


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
