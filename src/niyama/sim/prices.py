"""What work costs an engine at the very least, whatever the shapes of its steps.

A step's time depends on all that is in it together. Prices share it out: for every step that an engine
can run,

    time >= prefill_s * P + decode_s * D + context_s * C + pair_s * A

with its prompt tokens P, decodes D, tokens in the decodes' KV C, and prefill attention A (`BatchShape`).
So any set of requests takes at least the sum of its prices, in whatever steps and beside whomever they run,
because every token is in one step and prices are >= 0. Of all such prices those are chosen at which a given
workload costs the most: a linear program, and the dual of "the quickest mix of steps that serves it".

What is taken for granted of a step-time model: time never falls when a chunk grows (`ChunkSearch`), is linear
in prefill attention with one slope where there are prompt tokens, and convex or concave in C.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from niyama.scheduling.policy import BatchShape, LatencyModel
from niyama.sim.live import ReplicaLimits

_Rows = NDArray[np.float64]

ENOUGH = 1e-3
"""Share by which the prices may be below the best ones."""

RANGES_PER_DOUBLING = 4
"""Ranges of prompt tokens to begin with; about, per doubling of them."""

MOST_CUTS = 200
"""Tries after which the prices of that moment do; they are made to hold, so only less tight."""


class Work(NamedTuple):
    """What is to be computed, in the terms of `BatchShape`."""

    num_prefill_tokens: float
    num_decode_tokens: float
    decode_context: float
    attention_pairs: float


def work_of(num_prompt_tokens: int, num_cached_tokens: int, num_output_tokens: int) -> Work:
    """Return the least work of one request: nothing is computed twice.

    The first output token comes out of the prefill, every other one is a decode.
    """
    num_decodes = num_output_tokens - 1
    return Work(
        num_prompt_tokens - num_cached_tokens,
        num_decodes,
        num_decodes * (num_prompt_tokens + (num_decodes - 1) / 2),
        (num_prompt_tokens**2 - num_cached_tokens**2) / 2,
    )


class Prices(NamedTuple):
    """Seconds of engine time per unit of `Work`, each >= 0, and those of the shortest step."""

    prefill_s: float
    decode_s: float
    context_s: float
    pair_s: float
    step_s: float

    def cost_s(self, work: Work) -> float:
        """Return the least engine time of some work, seconds."""
        return (
            self.prefill_s * work.num_prefill_tokens
            + self.decode_s * work.num_decode_tokens
            + self.context_s * work.decode_context
            + self.pair_s * work.attention_pairs
        )


def best_prices(profile: LatencyModel, limits: ReplicaLimits, total: Work, longest_context: int) -> Prices:
    """Return the prices at which some work costs the most, to a share of about `ENOUGH`.

    Args:
        profile: Step times.
        limits: What a step can hold.
        total: The work, of a whole workload or its mean request; some prefill tokens.
        longest_context: No request has more tokens in KV.

    Cost: some ten thousand predictions, tenths of a second.
    """
    asked = np.array(total[:3], np.float64)
    needed = asked > 0
    steps = _Steps(profile, limits, longest_context)
    while True:
        # The best prices by the steps looked at; then whether any step between two of them might be quicker.
        shares = _highest(
            steps.looked_at[:, needed] / asked[needed], steps.times_s, _rebuilding(asked, needed)
        )
        prices = np.zeros(3)
        prices[needed] = shares / asked[needed]
        if not steps.split(steps.ranges @ prices > (1 + ENOUGH) * steps.times_s):
            break
    prices /= max(1.0, float((steps.ranges @ prices / steps.times_s).max()))
    prefill_s, decode_s, context_s = map(float, prices)
    return Prices(prefill_s, decode_s, context_s, _pair_s(profile), float(steps.times_s.min()))


def _pair_s(profile: LatencyModel) -> float:
    num_pairs = 1e6
    none, some = (profile.predict_s(BatchShape(1024, 0, 0, 0, pairs)) for pairs in (0.0, num_pairs))
    return (some - none) / num_pairs


def _rebuilding(asked: _Rows, needed: NDArray[np.bool_]) -> _Rows:
    """Return what keeps a decode no dearer than the prefill of all tokens before it, two or more.

    That is how a preempted request gets its next token.
    """
    rows = np.array([[-2.0, 1.0, 2.0], [-1.0, 0.0, 1.0]])
    return np.asarray((rows / np.where(needed, asked, 1.0))[:, needed])


class _Steps:
    """The steps that an engine can run, taken together in ranges of prompt tokens.

    A row is one number of decodes, a range of prompt tokens, and one corner of the contexts.

    Attributes:
        looked_at: The fewest prompt tokens of the row, its decodes and its context.
        ranges: The same with the most prompt tokens of the row.
        times_s: Of the step looked at: no step of the range is quicker.
    """

    def __init__(self, profile: LatencyModel, limits: ReplicaLimits, longest_context: int) -> None:
        self._profile = profile
        self._num_kv_tokens = limits.num_kv_tokens
        self._longest_context = longest_context
        most = limits.max_num_batched_tokens
        ranges: list[tuple[int, int, int]] = []
        for num_decodes in range(min(limits.max_num_seqs, most) + 1):
            first = 0 if num_decodes else 1
            while first + num_decodes <= most:
                last = min(most - num_decodes, first + first // RANGES_PER_DOUBLING)
                ranges.append((num_decodes, first, last))
                first = last + 1
        self._take(np.array(self._rows(ranges)))

    def split(self, is_chosen: NDArray[np.bool_]) -> bool:
        """Halve the ranges of some rows; False if each is a single number."""
        is_chosen = is_chosen & (self.looked_at[:, 0] < self.ranges[:, 0])
        columns = (self.looked_at[is_chosen, 1], self.looked_at[is_chosen, 0], self.ranges[is_chosen, 0])
        chosen = sorted(set(zip(*(column.astype(int).tolist() for column in columns), strict=True)))
        if not chosen:
            return False
        halves = []
        for num_decodes, first, last in chosen:
            middle = (first + last) // 2
            halves += [(num_decodes, first, middle), (num_decodes, middle + 1, last)]
        # The other rows of a range that is halved stay: they hold as well, if less tightly.
        old = np.column_stack([self.looked_at, self.ranges[:, 0], self.times_s])
        self._take(np.vstack([old[~is_chosen], np.array(self._rows(halves))]))
        return True

    def _take(self, rows: _Rows) -> None:
        self.looked_at, self.times_s = rows[:, :3], rows[:, 4]
        self.ranges = rows[:, [3, 1, 2]]

    def _rows(self, ranges: list[tuple[int, int, int]]) -> list[tuple[float, ...]]:
        """Return fewest prompt tokens, decodes, context, most prompt tokens and time, for each corner."""
        return [
            (first, num_decodes, context, last, time_s)
            for num_decodes, first, last in ranges
            for context, time_s in self._corners(first, num_decodes)
        ]

    def _corners(self, num_prefills: int, num_decodes: int) -> list[tuple[float, float]]:
        """Return contexts and times between which straight lines are nowhere above the true time."""
        most = min(self._num_kv_tokens, num_decodes * self._longest_context)

        def time_s(context: int) -> float:
            return self._profile.predict_s(BatchShape(num_prefills, num_decodes, context))

        least_s = time_s(0)
        if most < 1:
            return [(0.0, least_s)]
        bit = -(-most // 1024)
        most_s = time_s(most)
        slope, last_slope = (time_s(bit) - least_s) / bit, (most_s - time_s(most - bit)) / bit
        corners = [(0.0, least_s), (float(most), most_s)]
        if last_slope > slope * (1 + 1e-6):
            # Convex: the time lies above both tangents, which meet here.
            context = (most_s - last_slope * most - least_s) / (slope - last_slope)
            corners.append((context, least_s + slope * context))
        return corners


def _highest(rows: _Rows, times_s: _Rows, always: _Rows) -> _Rows:
    """Return the x >= 0 with the largest sum for which rows * x <= times_s and always * x <= 0.

    By cutting planes: the row that is broken most comes in until none is. Cost: O(rows) for each.
    """
    size = rows.shape[1]
    limits = np.vstack([always, -np.eye(size)])
    base = np.column_stack([limits, np.zeros(len(limits))])
    with np.errstate(divide="ignore"):
        tightest = np.where(rows > 0, times_s[:, None] / rows, np.inf).argmin(axis=0)
    cuts = np.column_stack([rows, times_s])[tightest]
    for _ in range(MOST_CUTS):
        x = _best_vertex(np.vstack([base, cuts]))
        used = rows @ x / times_s
        worst = int(used.argmax())
        if used[worst] <= 1 + ENOUGH / 100:
            break
        binding = cuts[:, :-1] @ x >= cuts[:, -1] * (1 - 1e-6)
        cuts = np.vstack([cuts[:size], cuts[size:][binding[size:]], [*rows[worst], times_s[worst]]])
    return x


def _best_vertex(rows: _Rows) -> _Rows:
    """Return the corner x with the largest sum of a small bounded polytope, a * x <= b in each row."""
    size = rows.shape[1] - 1
    chosen = rows[np.array(list(combinations(range(len(rows)), size)))]
    # Rows of one length, so that one number tells which of them are parallel.
    chosen = chosen / np.linalg.norm(chosen[..., :-1], axis=-1, keepdims=True)
    chosen = chosen[np.abs(np.linalg.det(chosen[..., :-1])) > 1e-9]
    corners = np.linalg.solve(chosen[..., :-1], chosen[..., -1:])[..., 0]
    slack = rows[:, -1] - corners @ rows[:, :-1].T
    room = 1e-9 * (np.abs(corners) @ np.abs(rows[:, :-1]).T + np.abs(rows[:, -1]))
    inside = corners[(slack >= -room).all(axis=1)]
    best: _Rows = inside[inside.sum(axis=1).argmax()]
    return best
