"""When requests arrive: each process turns random gaps of mean 1 into instants, seconds.

Scaling the rate scales the instants and redraws nothing, so that loads can be compared on the same
randomness. A process is an endless iterator; whoever reads it decides how many arrive.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from niyama.wording import shown

DIURNAL_PIECES = 96
"""A sine of the rate is followed in so many level pieces per period."""


class Piece(NamedTuple):
    """A stretch of time with a level rate, requests per second."""

    duration_s: float
    rate: float


def poisson(rng: random.Random, qps: float) -> Iterator[float]:
    """Yield instants of independent arrivals, `qps` per second on average."""
    at = 0.0
    while True:
        at += rng.expovariate(1.0)
        yield at / qps


def gamma(rng: random.Random, qps: float, cv: float) -> Iterator[float]:
    """Yield instants with gamma gaps of coefficient of variation `cv`: bursty above 1, even below."""
    shape = 1.0 / (cv * cv)
    at = 0.0
    while True:
        at += rng.gammavariate(shape, 1.0 / shape)
        yield at / qps


def periodic(rng: random.Random, pieces: Sequence[Piece]) -> Iterator[float]:
    """Yield Poisson instants whose rate follows `pieces`, over and over; some rate is above 0."""
    start_s, owed = 0.0, rng.expovariate(1.0)
    while True:
        for duration_s, rate in pieces:
            into_s = 0.0
            while owed <= rate * (duration_s - into_s):
                into_s += owed / rate if rate > 0 else 0.0
                yield start_s + into_s
                owed = rng.expovariate(1.0)
            owed -= rate * (duration_s - into_s)
            start_s += duration_s


def square_wave(low_qps: float, high_qps: float, half_period_s: float) -> list[Piece]:
    """Return the pieces of a rate that changes between two levels, the low one first."""
    return [Piece(half_period_s, low_qps), Piece(half_period_s, high_qps)]


def diurnal(swing: float, period_s: float) -> list[Piece]:
    """Return the pieces of a rate around 1, up and down by `swing` in 0 to 1, lowest first."""
    width_s = period_s / DIURNAL_PIECES
    angles = ((n + 0.5) / DIURNAL_PIECES * math.tau for n in range(DIURNAL_PIECES))
    return [Piece(width_s, 1.0 - swing * math.cos(angle)) for angle in angles]


def recorded(rng: random.Random, qps: float, instants: Sequence[float]) -> Iterator[float]:
    """Yield recorded instants, from 0 on, stretched to `qps` on average and repeated when used up.

    Args:
        rng: Not used; here for the form of a process.
        qps: Requests per second.
        instants: In ascending order, at least two different ones.
    """
    first = instants[0]
    span_s = (instants[-1] - first) * len(instants) / (len(instants) - 1)
    factor = len(instants) / (qps * span_s)
    offset_s = 0.0
    while True:
        for at in instants:
            yield (offset_s + at - first) * factor
        offset_s += span_s


@dataclass(frozen=True, slots=True)
class Periodic:
    """A process whose rate follows `pieces`, over and over; over whole periods its mean is the asked one.

    It begins with the first piece, so part of a period has another mean, and perhaps not the highest rate.
    """

    pieces: tuple[Piece, ...]

    @property
    def period_s(self) -> float:
        """How long all pieces last, seconds."""
        return sum(piece.duration_s for piece in self.pieces)

    def __call__(self, rng: random.Random, qps: float) -> Iterator[float]:
        """Return the instants; the rates are scaled so that `qps` is their mean."""
        mean = sum(piece.duration_s * piece.rate for piece in self.pieces) / self.period_s
        return periodic(rng, [Piece(piece.duration_s, piece.rate * qps / mean) for piece in self.pieces])


def parse_arrivals(text: str, instants: Sequence[float]) -> Callable[[random.Random, float], Iterator[float]]:
    """Return the process that a text such as `gamma:2` or `square:2:5:900` means.

    Args:
        text: `poisson`, `gamma:CV`, `square:LOW:HIGH:SECONDS` (the rates are scaled so that their
            mean is the asked one), `diurnal:SWING:SECONDS` or `recorded`.
        instants: What was recorded; empty if nothing was.

    Raises:
        ValueError: the text means none, or a number is out of range; names the option.
    """
    name, *words = text.split(":")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    match name, numbers:
        case "poisson", []:
            return poisson
        case "gamma", [cv] if 0.01 <= cv <= 100:
            return partial(gamma, cv=cv)
        case "square", [low, high, half_s] if (
            0 <= low <= high < math.inf and high > 0 and 0 < half_s < math.inf
        ):
            return Periodic(tuple(square_wave(low, high, half_s)))
        case "diurnal", [swing, period_s] if 0 <= swing <= 1 and 0 < period_s < math.inf:
            return Periodic(tuple(diurnal(swing, period_s)))
        case "recorded", []:
            if len(set(instants)) < 2:
                raise ValueError("--arrivals: the trace has no recorded arrivals; allowed: any other process")
            return partial(recorded, instants=list(instants))
    raise ValueError(
        f"--arrivals: {shown(text)} is no process; allowed: poisson, gamma:CV (0.01 to 100), "
        "square:LOW:HIGH:SECONDS, diurnal:SWING:SECONDS (swing 0 to 1), recorded"
    )
