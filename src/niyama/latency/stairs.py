"""Where a step's time rises in stairs: the sizes at which time is spent best.

GPUs compute in tiles, so one token more can cost as much as a hundred. Drawn over the tokens of the
step, times have a lower convex hull; whoever mixes steps of the sizes at its corners computes more in the
same time than with any size between them. Adding what is proportional to tokens, or the same for
all sizes, moves no corner, so the corners are those of the device, whatever else is in the step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


class Stairs:
    """Corners of a rising piecewise straight function of the tokens in a step."""

    def __init__(self, tokens: Sequence[int], times_s: Sequence[float]) -> None:
        """Take its knots, tokens rising, and the time at each, seconds. O(knots)."""
        self._tokens = list(tokens)
        self._times_s = list(times_s)
        self._next = self._corners()

    def best_total(self, start: int, start_s: float, most: int) -> int:
        """Return the largest good size of a step, `start` < size <= `most`; `most` if there is none.

        Args:
            start: Tokens that are in the step anyway.
            start_s: The function there, seconds.
            most: Tokens that the step may have.

        Never falls when `most` grows. O(log knots), and the corners between `start` and the answer.
        """
        tokens = self._tokens
        corner = bisect_right(tokens, start)
        if corner == len(tokens):
            return most
        while self._next[corner] > corner and self._rate(self._next[corner], start, start_s) < self._rate(
            corner, start, start_s
        ):
            corner = self._next[corner]
        if tokens[corner] > most:
            return most
        while self._next[corner] > corner and tokens[self._next[corner]] <= most:
            corner = self._next[corner]
        # From one knot straight to the next every size is as good.
        is_straight = self._next[corner] == corner + 1 or corner == len(tokens) - 1
        return most if is_straight else tokens[corner]

    def _rate(self, corner: int, start: int, start_s: float) -> float:
        """Return the time per token from the start to a knot, seconds."""
        return (self._times_s[corner] - start_s) / (self._tokens[corner] - start)

    def _corners(self) -> list[int]:
        """Return, for every knot, the next corner of the hull of what begins there; its own for the last."""
        tokens, times_s = self._tokens, self._times_s
        following = list(range(len(tokens)))
        for index in range(len(tokens) - 2, -1, -1):
            best = index + 1
            while following[best] > best and self._rate(
                following[best], tokens[index], times_s[index]
            ) < self._rate(best, tokens[index], times_s[index]):
                best = following[best]
            following[index] = best
        return following
