"""How long an answer will be, from the history of the application that asks.

The paper estimates mean plus two standard deviations of an application's past outputs; here an
application is a QoS class and a tenant. A pair without enough history uses its class, then all
traffic, then a prior. Old answers fade, so that the estimate follows a change.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, TypeVar

_Key = TypeVar("_Key")

PRIOR_TOKENS: Final = 256
MIN_SAMPLES: Final = 8
# One finished answer counts 1/WINDOW of the history once there are that many.
WINDOW: Final = 500


class _Moments:
    """Mean and variance of a stream with slow forgetting; O(1) per sample."""

    __slots__ = ("mean", "num_samples", "variance")

    def __init__(self) -> None:
        self.num_samples = 0
        self.mean = 0.0
        self.variance = 0.0

    def add(self, value: float) -> None:
        self.num_samples += 1
        rate = 1.0 / min(self.num_samples, WINDOW)
        delta = value - self.mean
        self.mean += rate * delta
        self.variance = (1.0 - rate) * (self.variance + rate * delta * delta)

    @property
    def upper(self) -> float:
        return self.mean + 2.0 * math.sqrt(self.variance)


class OutputLengthEstimator:
    """Expected output lengths per QoS class and tenant; deterministic, O(1) per call.

    Args:
        max_histories: Pairs of class and tenant that are remembered; the one unused for
            longest is dropped first.
    """

    def __init__(self, *, max_histories: int = 1024) -> None:
        """Start without history. Raises ValueError unless `max_histories` >= 1."""
        if max_histories < 1:
            raise ValueError(f"max_histories: {max_histories!r} is not allowed; give an integer >= 1")
        self._max_histories = max_histories
        self._pairs: OrderedDict[tuple[str, str], _Moments] = OrderedDict()
        self._classes: OrderedDict[str, _Moments] = OrderedDict()
        self._all = _Moments()

    def expect(
        self, qos_class: str, tenant: str, max_tokens: int, so_far: int = 0, hint: int | None = None
    ) -> int:
        """Return the expected total output of a request, tokens.

        Args:
            qos_class: Class of the request.
            tenant: Who asks; may be empty.
            max_tokens: The client's bound, >= 1.
            so_far: Tokens that came out already; an answer that outlives its estimate is
                expected to go on for half as long again.
            hint: The client's own guess; replaces the history.

        Returns:
            More than `so_far` and at most `max_tokens`; `max_tokens` once that is reached.
        """
        expected = hint if hint is not None and hint > 0 else self._from_history(qos_class, tenant)
        if expected <= so_far:
            expected = so_far + max(1, so_far // 2)
        return max(1, min(expected, max_tokens))

    def finished(self, qos_class: str, tenant: str, num_tokens: int) -> None:
        """Learn the output length of a request that ended by itself; below 1 is ignored."""
        if num_tokens < 1:
            return
        self._recall(self._pairs, (qos_class, tenant)).add(num_tokens)
        self._recall(self._classes, qos_class).add(num_tokens)
        self._all.add(num_tokens)

    def _from_history(self, qos_class: str, tenant: str) -> int:
        pair = self._pairs.get((qos_class, tenant))
        if pair is not None:
            self._pairs.move_to_end((qos_class, tenant))
        for history in (pair, self._classes.get(qos_class), self._all):
            if history is not None and history.num_samples >= MIN_SAMPLES:
                return math.ceil(history.upper)
        return PRIOR_TOKENS

    def _recall(self, histories: OrderedDict[_Key, _Moments], key: _Key) -> _Moments:
        history = histories.get(key)
        if history is None:
            history = histories[key] = _Moments()
            if len(histories) > self._max_histories:
                histories.popitem(last=False)
        else:
            histories.move_to_end(key)
        return history
