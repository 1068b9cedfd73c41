"""A step-time profile fitted to one server's steps (`niyama calibrate`).

    time = fixed + mixed·[prefill > 0] + prefill(p) + decode(d)
           + decode_context·Cd + prefill_context·Cp + attention·A

`prefill` and `decode` rise from 0 in straight pieces between knots. No slope and no coefficient is
negative, so the time never falls when a chunk grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from niyama.latency.search import ChunkSearch
from niyama.scheduling.policy import BatchShape
from niyama.wording import shown

MIN_STEP_S = 1e-6
"""No engine is faster."""

PREFILL_KNOTS = (32, 128, 256, 512, 1024)
DECODE_KNOTS = (4, 16, 64)
"""Tokens at which a slope may change."""


def pieces(num_tokens: int, knots: Sequence[int]) -> list[float]:
    """Return how many of the tokens lie between each two knots; the last piece has no end."""
    lengths: list[float] = []
    begin = 0
    for end in knots:
        lengths.append(max(0, min(num_tokens, end) - begin))
        begin = end
    lengths.append(max(0, num_tokens - begin))
    return lengths


@dataclass(frozen=True, slots=True)
class StepTime:
    """The coefficients, seconds per step, per token and per token of context; all >= 0, finite.

    Attributes:
        prefill: One slope more than `PREFILL_KNOTS`, for `prefill_knots` likewise.
        decode: The same for decodes.
    """

    fixed: float
    mixed: float
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    decode_context: float
    prefill_context: float
    attention: float
    prefill_knots: tuple[int, ...] = PREFILL_KNOTS
    decode_knots: tuple[int, ...] = DECODE_KNOTS

    def __post_init__(self) -> None:
        """Raise ValueError for what would let a longer chunk be the quicker one."""
        for name in ("prefill", "decode"):
            knots, slopes = getattr(self, f"{name}_knots"), getattr(self, name)
            if len(slopes) != len(knots) + 1 or list(knots) != sorted({k for k in knots if k > 0}):
                raise ValueError(f"{name}: give rising knots > 0, and one slope more than knots")
        for name, value in zip(self.names(), self.values(), strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name}: {shown(value)} is not a cost; give a finite number >= 0")

    @classmethod
    def features(cls, shape: BatchShape) -> list[float]:
        """Return what `values` are multiplied with, for the default knots."""
        prefill, decode, decode_context, prefill_context, pairs = shape
        first = [1.0, float(prefill > 0), *pieces(prefill, PREFILL_KNOTS), *pieces(decode, DECODE_KNOTS)]
        return [*first, decode_context, prefill_context, pairs]

    @classmethod
    def of_values(cls, values: Sequence[float]) -> StepTime:
        """Return the coefficients from their list, for the default knots."""
        end = 3 + len(PREFILL_KNOTS)
        last = end + 1 + len(DECODE_KNOTS)
        decode_context, prefill_context, attention = values[last:]
        slopes = tuple(values[2:end]), tuple(values[end:last])
        return cls(values[0], values[1], *slopes, decode_context, prefill_context, attention)

    def values(self) -> list[float]:
        """Return the coefficients as one list."""
        rest = [self.decode_context, self.prefill_context, self.attention]
        return [self.fixed, self.mixed, *self.prefill, *self.decode, *rest]

    def names(self) -> list[str]:
        """Return what each of `values` is called."""
        prefill, decode = ["prefill"] * len(self.prefill), ["decode"] * len(self.decode)
        return ["fixed", "mixed", *prefill, *decode, "decode_context", "prefill_context", "attention"]

    def predict_s(self, shape: BatchShape) -> float:
        """Return the time of a step, seconds, > 0."""
        prefill, decode, decode_context, prefill_context, pairs = shape
        time_s = self.fixed + _rise(decode, self.decode_knots, self.decode)
        time_s += self.decode_context * decode_context
        if prefill:
            time_s += self.mixed + _rise(prefill, self.prefill_knots, self.prefill)
            time_s += self.prefill_context * prefill_context + self.attention * pairs
        return max(MIN_STEP_S, time_s)

    def scaled(self, factor: float) -> StepTime:
        """Return the same for a machine that takes `factor` times as long."""
        return StepTime.of_values([factor * value for value in self.values()])

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> StepTime:
        """Return what `to_mapping` gave. Raises KeyError, TypeError, ValueError for anything else."""
        fields: dict[str, Any] = {}
        for name in cls.__slots__:
            value = mapping[name]
            fields[name] = tuple(value) if isinstance(value, list) else value
        return cls(**fields)


def _rise(num_tokens: int, knots: Sequence[int], slopes: Sequence[float]) -> float:
    time_s, begin = 0.0, 0
    for end, slope in zip(knots, slopes, strict=False):
        if num_tokens <= end:
            return time_s + slope * (num_tokens - begin)
        time_s += slope * (end - begin)
        begin = end
    return time_s + slopes[-1] * (num_tokens - begin)


@dataclass(frozen=True, slots=True)
class CalibratedProfile(ChunkSearch):
    """A fixed profile with calibrated costs, as the policies and the simulator take one.

    Attributes:
        name: What was calibrated.
        step: The costs.
        margin: Share of the prediction to add for safety, >= 0.
    """

    name: str
    step: StepTime
    margin: float = 0.2

    def __post_init__(self) -> None:
        """Raise ValueError for a margin that is negative or not finite."""
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin: {self.margin!r} is not allowed; give a finite number >= 0")

    def predict_s(self, shape: BatchShape) -> float:
        """Return the step's time, seconds, > 0."""
        return self.step.predict_s(shape)

    def margin_s(self, predicted_s: float) -> float:
        """Return the fixed share of the prediction."""
        return self.margin * predicted_s

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        """Ignore the step: a profile is fixed."""

    def stats(self) -> dict[str, object]:
        """Return what the model is, for state pages and logs."""
        return {"model": "profile", "name": self.name, "margin": self.margin}
