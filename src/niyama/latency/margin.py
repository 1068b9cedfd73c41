"""The safety margin: what to add to a prediction so that few steps take longer."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from math import frexp
from typing import Final

# A stall says nothing of the next step: beyond this many times the prediction, more is the same.
MAX_RATIO: Final = 3.0


class _Ratios:
    """The last ratios of actual to predicted duration, also kept sorted."""

    __slots__ = ("in_order", "in_time")

    def __init__(self) -> None:
        self.in_time: deque[float] = deque()
        self.in_order: list[float] = []

    def add(self, ratio: float, window: int) -> None:
        if len(self.in_time) == window:
            del self.in_order[bisect_left(self.in_order, self.in_time.popleft())]
        self.in_time.append(ratio)
        insort(self.in_order, ratio)


class QuantileMargin:
    """A running quantile of actual over predicted, one per factor of two in the prediction.

    Short steps are noisy in proportion and long ones are not, hence a quantile per size; a size that
    was never seen borrows from the nearest one that was. Between sizes prediction plus margin is
    interpolated and never falls, so a longer prediction is never the safer one.

    Args:
        quantile: Share of steps that should take no longer than prediction plus margin, 0..1.
        window: Steps per size that are remembered.
        prior: Margin as a share of the prediction until a size has `min_samples` steps.
        min_samples: See `prior`.
    """

    def __init__(
        self, *, quantile: float = 0.97, window: int = 256, prior: float = 0.25, min_samples: int = 50
    ) -> None:
        """Start with the prior for every size."""
        self._quantile = quantile
        self._window = window
        self._prior = prior
        self._min_samples = min_samples
        self._sizes: dict[int, _Ratios] = {}
        self._predicted: list[float] = []
        self._safe: list[float] = []

    def observe(self, predicted_s: float, duration_s: float) -> None:
        """Learn from a step. Cost: about a microsecond; the table follows at `refresh`."""
        size = frexp(predicted_s)[1]
        ratios = self._sizes.get(size)
        if ratios is None:
            ratios = self._sizes[size] = _Ratios()
        ratios.add(min(duration_s / predicted_s, MAX_RATIO), self._window)

    def refresh(self) -> None:
        """Take what was observed into account from now on."""
        self._predicted, self._safe = [], []
        highest = 0.0
        for size in sorted(self._sizes):
            ratios = self._sizes[size].in_order
            if len(ratios) < self._min_samples:
                continue
            # 0.75 * 2**size is the middle of the predictions that frexp gives this size.
            middle = 0.75 * 2.0**size
            ratio = max(1.0, ratios[int(self._quantile * (len(ratios) - 1))])
            highest = max(highest, middle * ratio)
            self._predicted.append(middle)
            self._safe.append(highest)

    def margin_s(self, predicted_s: float) -> float:
        """Return the time to add, seconds, >= 0."""
        return max(0.0, self._safe_s(predicted_s) - predicted_s)

    def longest_prediction_s(self, limit_s: float) -> float:
        """Return the longest prediction that stays within `limit_s` with its margin, up to rounding."""
        predicted, safe = self._predicted, self._safe
        if not predicted:
            return limit_s / (1.0 + self._prior)
        right = bisect_right(safe, limit_s)
        if right == 0:
            return limit_s * predicted[0] / safe[0]
        if right == len(safe):
            return limit_s * predicted[-1] / safe[-1]
        share = (limit_s - safe[right - 1]) / (safe[right] - safe[right - 1])
        return min(limit_s, predicted[right - 1] + share * (predicted[right] - predicted[right - 1]))

    def _safe_s(self, predicted_s: float) -> float:
        predicted, safe = self._predicted, self._safe
        if not predicted:
            return predicted_s * (1.0 + self._prior)
        right = bisect_right(predicted, predicted_s)
        if right == 0:
            return predicted_s * safe[0] / predicted[0]
        if right == len(predicted):
            return predicted_s * safe[-1] / predicted[-1]
        low, high = predicted[right - 1], predicted[right]
        share = (predicted_s - low) / (high - low)
        return safe[right - 1] + share * (safe[right] - safe[right - 1])
