"""A workload: arrivals, lengths, classes, tenants and importance, drawn from one seed.

The true output length is here and in the simulator; the policy's `Request` does not have it (L8).
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from niyama.qos import Importance, QosBook
from niyama.scheduling.policy import Request
from niyama.wording import listed, one_line
from niyama.workload.presets import PRESETS, load_preset
from niyama.workload.streams import stream
from niyama.workload.tracefile import TraceError, TraceRow, load_trace

MAX_OUTPUT_TOKENS = 4096
"""The bound that every client sets on its answer, unless the trace has longer ones."""

_T = TypeVar("_T")

Arrivals = Callable[[random.Random, float], Iterator[float]]
"""Instants from a random stream and a rate, requests per second."""


class Arrival(NamedTuple):
    """A request, and how long its answer turns out to be."""

    request: Request
    num_output_tokens: int


class Shares(Generic[_T]):
    """Things that are drawn with given weights, one random number per draw."""

    def __init__(self, weights: Sequence[tuple[_T, float]]) -> None:
        self._weights = list(weights)
        self._sums = list(accumulate(weight for _, weight in weights))

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[_T]:
        """Yield the things in their order."""
        return (thing for thing, _ in self._weights)

    def __getitem__(self, index: int) -> _T:
        return self._weights[index][0]

    def weighted(self) -> Iterator[tuple[_T, float]]:
        """Yield the things and their weights."""
        return iter(self._weights)

    def draw(self, rng: random.Random) -> _T:
        """Return one of them."""
        place = bisect(self._sums, rng.random() * self._sums[-1])
        return self._weights[min(place, len(self._weights) - 1)][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What arrives, but for how much of it and how fast.

    Attributes:
        name: Where the lengths come from, for reports.
        lengths: What a request looks like; rows of a trace or cells of a preset.
        book: The classes.
        arrivals: The arrival process.
        mix: Weight of each class; the book's classes in equal shares if empty. A row that names
            its class keeps it.
        tenants: Weight of each tenant; none if empty.
        low_share: Share of the requests that are of low importance, whatever their class.
        is_recorded: Take the rows in their order instead of drawing them.
        seed: Of all random streams.
    """

    name: str
    lengths: Shares[TraceRow]
    book: QosBook
    arrivals: Arrivals
    mix: Mapping[str, float] = field(default_factory=dict[str, float])
    tenants: Mapping[str, float] = field(default_factory=dict[str, float])
    low_share: float = 0.0
    is_recorded: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse classes that the book does not have, and weights that are none."""
        known = listed(self.book.classes)
        for name in (*self.mix, *{row.qos_class for row in self.lengths if row.qos_class}):
            if name not in self.book.classes:
                raise ValueError(f"class: {name!r} is not in the QoS book; allowed: {known}")
        for name, weights in (("mix", self.mix), ("tenants", self.tenants)):
            if weights and not (min(weights.values()) >= 0 and 0 < sum(weights.values()) < float("inf")):
                raise ValueError(f"{name}: {dict(weights)} are no weights; allowed: numbers >= 0, not all 0")
        if not 0 <= self.low_share <= 1:
            raise ValueError(f"low_share: {self.low_share!r} is no share; allowed: 0 to 1")

    @property
    def class_weights(self) -> dict[str, float]:
        """How a class is drawn for a request whose row names none."""
        return dict(self.mix) or dict.fromkeys(self.book.classes, 1.0)

    @property
    def class_shares(self) -> dict[str, float]:
        """The share of every class that can occur, by name; the sum is 1."""
        named: defaultdict[str | None, float] = defaultdict(float)
        for row, weight in self.lengths.weighted():
            named[row.qos_class] += weight
        total, drawn = sum(named.values()), named.pop(None, 0.0)
        weights = self.class_weights
        scale = drawn / sum(weights.values())
        names = dict.fromkeys([*weights, *sorted(name for name in named if name)])
        shares = {name: (weights.get(name, 0.0) * scale + named[name]) / total for name in names}
        return {name: share for name, share in shares.items() if share > 0}

    def requests(self, qps: float, num_requests: int) -> Iterator[Arrival]:
        """Yield the requests in order of arrival.

        A longer workload begins with the shorter one, and the rate changes nothing but the arrivals.
        """
        rngs = {name: stream(self.seed, name) for name in ("arrivals", "lengths", "class", "tenant", "low")}
        classes = Shares(list(self.class_weights.items()))
        tenants = Shares(list(self.tenants.items()) or [("", 1.0)])
        max_tokens = max(MAX_OUTPUT_TOKENS, *(row.num_decode_tokens for row in self.lengths))
        instants = islice(self.arrivals(rngs["arrivals"], qps), num_requests)
        for number, at in enumerate(instants):
            if self.is_recorded:
                row = self.lengths[number % len(self.lengths)]
            else:
                row = self.lengths.draw(rngs["lengths"])
            qos_class = self.book.classes[_or(row.qos_class, classes.draw(rngs["class"]))]
            is_low = rngs["low"].random() < self.low_share
            importance = _or(row.importance, Importance.LOW if is_low else qos_class.importance)
            tenant = row.tenant or tenants.draw(rngs["tenant"])
            request = Request(
                request_id=f"r{number}",
                arrived_at=at,
                slo=qos_class.slo,
                num_prompt_tokens=row.num_prefill_tokens,
                max_tokens=max_tokens,
                qos_class=qos_class.name,
                tenant=tenant,
                importance=importance,
                tenant_weight=self.book.weight(tenant),
            )
            yield Arrival(request, row.num_decode_tokens)


def load_lengths(trace: str) -> Shares[TraceRow]:
    """Return the requests of a preset or a trace file. Raises TraceError if it is neither."""
    if trace in PRESETS:
        return Shares(
            [
                (TraceRow(None, cell.num_prefill_tokens, cell.num_decode_tokens), cell.num_requests)
                for cell in load_preset(trace)
            ]
        )
    if not Path(trace).exists():
        allowed = f"a CSV or JSONL file, or {listed(PRESETS)}"
        raise TraceError(one_line(f"{trace}: no such trace; allowed: {allowed}"))
    return Shares([(row, 1.0) for row in load_trace(trace)])


def _or(value: _T | None, otherwise: _T) -> _T:
    return otherwise if value is None else value
