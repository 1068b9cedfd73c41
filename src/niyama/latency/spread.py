"""How far durations scatter around their prediction, and draws from that.

Ratios of actual to predicted are kept as a table: the means of equal shares of all, so that draws
from it have the mean of what was seen. Neighbouring durations scatter alike (a busy machine is busy
for a while), so draws follow one another as in a first-order autoregression of normal scores.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import NormalDist
from typing import Any

from niyama.wording import shown

MAX_VALUES = 500
"""Longest table; fewer samples are kept as they are."""

_NORMAL = NormalDist()
# Scores of the smallest and largest sample stay finite.
_MIN_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class Spread:
    """Ratios of actual over predicted.

    Attributes:
        quantiles: Ratios of equal shares of all, rising, >= 0; at least one.
        memory: Correlation of a ratio's normal score with that of the one before, 0 to below 1.
    """

    quantiles: tuple[float, ...] = (1.0,)
    memory: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for what is no distribution of ratios."""
        values = self.quantiles
        if not values or not (values[0] >= 0 and values[-1] < math.inf) or list(values) != sorted(values):
            raise ValueError("quantiles: give a rising list of finite numbers >= 0")
        if not 0 <= self.memory < 1:
            raise ValueError(
                f"memory: {shown(self.memory)} is no correlation; give a number from 0 to below 1"
            )

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Spread:
        """Return the spread of ratios in the order in which they occurred; of none, no spread."""
        if not ratios:
            return cls()
        order = sorted(ratios)
        size = min(MAX_VALUES, len(order))
        bounds = [len(order) * number // size for number in range(size + 1)]
        means = [sum(order[a:b]) / (b - a) for a, b in pairwise(bounds)]
        # Means of equal samples may differ in the last digit; the table has to rise.
        return cls(tuple(accumulate(means, max)), _memory(ratios))

    @property
    def is_none(self) -> bool:
        """Whether every ratio is the same."""
        return self.quantiles[0] == self.quantiles[-1]

    def quantile(self, share: float) -> float:
        """Return the ratio that a share of all is at most, 0 <= share <= 1."""
        size = len(self.quantiles)
        return self.quantiles[min(int(share * size), size - 1)]

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {"quantiles": list(self.quantiles), "memory": self.memory}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Spread:
        """Return what `to_mapping` gave. Raises KeyError, TypeError, ValueError for anything else."""
        return cls(tuple(float(value) for value in mapping["quantiles"]), float(mapping["memory"]))


@dataclass(frozen=True, slots=True)
class Stalls:
    """Times in which the machine did something else; they last as long whatever the step.

    Attributes:
        per_s: How many begin in a second of steps, >= 0.
        seconds: Their durations, as the table of a `Spread`.
    """

    per_s: float = 0.0
    seconds: Spread = Spread((0.0,))

    def __post_init__(self) -> None:
        """Raise ValueError for what is no rate."""
        if not 0 <= self.per_s < math.inf:
            raise ValueError(f"per_s: {shown(self.per_s)} is not a rate; give a finite number >= 0")

    def draw(self, time_s: float, rng: random.Random) -> float:
        """Return for how long a time is stalled, seconds; mostly 0, and nothing is drawn without stalls."""
        if not self.per_s or rng.random() >= -math.expm1(-self.per_s * time_s):
            return 0.0
        return self.seconds.quantile(rng.random())

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {"per_s": self.per_s, "seconds": self.seconds.to_mapping()}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Stalls:
        """Return what `to_mapping` gave. Raises KeyError, TypeError, ValueError for anything else."""
        return cls(float(mapping["per_s"]), Spread.from_mapping(mapping["seconds"]))


NO_STALLS = Stalls()
NO_SPREAD = Spread()
"""Every duration is as predicted."""


class Scatter:
    """Draws ratios that follow one another; the same seed gives the same draws."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._score = rng.gauss(0.0, 1.0)

    def draw(self, spread: Spread) -> float:
        """Return the next ratio; without spread nothing is drawn from the stream."""
        if spread.is_none:
            return spread.quantiles[0]
        fresh = math.sqrt(1.0 - spread.memory**2)
        self._score = spread.memory * self._score + fresh * self._rng.gauss(0.0, 1.0)
        return spread.quantile(_NORMAL.cdf(self._score))


def _memory(ratios: Sequence[float]) -> float:
    """Return the correlation of neighbouring ratios' normal scores, 0 if negative or unknown."""
    if len(ratios) < 3:
        return 0.0
    ranks = {place: rank for rank, place in enumerate(sorted(range(len(ratios)), key=lambda i: ratios[i]))}
    shares = ((ranks[place] + 0.5) / len(ratios) for place in range(len(ratios)))
    scores = [_NORMAL.inv_cdf(min(max(share, _MIN_SHARE), 1.0 - _MIN_SHARE)) for share in shares]
    square = sum(score * score for score in scores)
    product = sum(a * b for a, b in pairwise(scores))
    return min(0.99, max(0.0, product / square))
