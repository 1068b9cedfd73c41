"""Fits what lies between client and engine: the delays of `niyama.latency.profilefile.Overheads`."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from niyama.bench.recordedrun import RecordedRun
from niyama.latency.profilefile import NO_DELAY, Delay, HandOn, Overheads
from niyama.latency.robust import fit_nonnegative
from niyama.latency.spread import MAX_VALUES, NO_STALLS, Spread, Stalls

MIN_SAMPLES = 20
"""Fewer requests say nothing of delays."""

MIN_DELAY_S = 1e-5
"""Stamps of two clocks may put an effect a little before its cause."""

STALLED = 5.0
"""A step whose tokens take this many times as long as usual was held up by something else."""

_GRID = 120
_ROUNDS = 200
# An arrival that found the engine idle was taken in at once, up to this share.
_IDLE_SHARE = 0.9
_MAX_TAKE_S = 10.0


class Sample(NamedTuple):
    """A delay, with how busy the server was and how long the prompt is."""

    num_tokens: int
    num_prompt_tokens: int
    delay_s: float


def fit_overheads(runs: Sequence[RecordedRun]) -> Overheads:
    """Return the delays of all runs together. Raises ValueError if they have too few requests."""
    sends = [sample for run in runs for sample in _sends(run)]
    if len(sends) < MIN_SAMPLES:
        raise ValueError(f"records: {len(sends)} requests are too few; give at least {MIN_SAMPLES}")
    return Overheads(
        send=fit_delay(sends),
        take=fit_within([window for run in runs for window in _takes(run)]),
        token=fit_hand_on([list(_deliveries(run)) for run in runs]),
    )


def fit_delay(samples: Sequence[Sample]) -> Delay:
    """Return a delay from exact observations, in the order in which they occurred."""
    rows = np.array([(1.0, s.num_tokens, s.num_prompt_tokens) for s in samples])
    delays = np.maximum(MIN_DELAY_S, np.array([s.delay_s for s in samples]))
    fixed, per_token, per_prompt_token = map(float, fit_nonnegative(rows, delays))
    expected = np.maximum(MIN_DELAY_S, rows @ np.array([fixed, per_token, per_prompt_token]))
    return Delay(
        max(MIN_DELAY_S, fixed), per_token, per_prompt_token, Spread.of((delays / expected).tolist())
    )


def fit_within(windows: Sequence[tuple[float, float]]) -> Delay:
    """Return a delay of which only bounds are known, (longer than, at most), seconds.

    Turnbull's estimate of a distribution from censored observations, on a grid of delays.
    """
    highest = min(_MAX_TAKE_S, max(upper for _, upper in windows))
    grid = np.geomspace(MIN_DELAY_S, max(highest, 2 * MIN_DELAY_S), _GRID)
    bounds = np.array(windows)
    lower, upper = bounds[:, :1], np.maximum(bounds[:, 1:], grid[0])
    is_possible = ((grid > lower) & (grid <= upper)).astype(float)
    is_possible = is_possible[is_possible.any(axis=1)]
    shares = _turnbull(is_possible)
    middles = (np.arange(MAX_VALUES) + 0.5) / MAX_VALUES
    quantiles = grid[np.minimum(np.searchsorted(np.cumsum(shares), middles), _GRID - 1)]
    usual = float(quantiles[MAX_VALUES // 2])
    return Delay(usual, spread=Spread(tuple(float(value) / usual for value in quantiles)))


def _turnbull(is_possible: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each grid point's share under the most likely distribution, found step by step."""
    shares = np.full(is_possible.shape[1], 1.0 / is_possible.shape[1])
    for _ in range(_ROUNDS):
        weighted = is_possible * shares
        shares = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares


def _sends(run: RecordedRun) -> Iterator[Sample]:
    ended_at = [step.ended_at for step in run.log.steps]
    for record in run.records:
        seen = run.seen.get(record.id)
        if seen is None or record.sent_at is None:
            continue
        sent_at = run.begins_at + record.sent_at
        number = bisect_left(ended_at, sent_at)
        is_idle = number == len(ended_at) or run.log.steps[number].started_at > sent_at
        num_tokens = 0 if is_idle or number == 0 else run.log.steps[number - 1].num_tokens
        request = seen.request
        yield Sample(num_tokens, request.num_prompt_tokens, request.arrived_at - sent_at)


def _takes(run: RecordedRun) -> Iterator[tuple[float, float]]:
    """Yield bounds: the scheduler looks for arrivals when a step has ended, or at once if it is idle."""
    ended_at = [step.ended_at for step in run.log.steps]
    for seen in run.seen.values():
        number = bisect_right(ended_at, seen.taken_at)
        last_at = run.log.steps[number - 1].started_at if number else 0.0
        upper_s = max(MIN_DELAY_S, seen.taken_at - seen.request.arrived_at)
        is_idle = number == 0 or seen.taken_at - ended_at[number - 1] > _IDLE_SHARE * upper_s
        yield (_IDLE_SHARE * upper_s if is_idle else max(0.0, last_at - seen.request.arrived_at), upper_s)


class Delivery(NamedTuple):
    """When a step's tokens were at their clients, on the server's clock."""

    num_tokens: int
    ended_at: float
    first_at: float
    last_at: float


def fit_hand_on(runs: Sequence[Sequence[Delivery]]) -> HandOn:
    """Return how tokens are handed on, from the steps of each run in their order.

    A step occupies the process from its end, or from when the one before was through, to its last token.
    What is beyond `STALLED` times the usual was a stall.
    """
    handed = [one for deliveries in runs for one in _handed(deliveries)]
    usual = fit_delay([Sample(one.num_tokens, 0, one.time_s) for one in handed if not one.is_behind])
    limits = [STALLED * usual.expected_s(one.num_tokens) for one in handed]
    kept = [one._replace(time_s=min(one.time_s, limit)) for one, limit in zip(handed, limits, strict=True)]
    shares = [one.first_share for one in kept if not one.is_behind and one.num_tokens > 1]
    observed_s = sum(steps[-1].ended_at - steps[0].ended_at for steps in runs if steps)
    long = [one.time_s - limit for one, limit in zip(handed, limits, strict=True) if one.time_s > limit]
    return HandOn(
        idle=fit_delay([Sample(one.num_tokens, 0, one.time_s) for one in kept if not one.is_behind]),
        behind=_mean_delay([one.time_s for one in kept if one.is_behind]),
        first_share=float(np.median(shares)) if shares else 1.0,
        stalls=Stalls(len(long) / observed_s, Spread.of(long)) if long and observed_s else NO_STALLS,
    )


class _Handed(NamedTuple):
    """For how long a step occupied the process that hands tokens on."""

    num_tokens: int
    is_behind: bool
    time_s: float
    first_share: float


def _handed(deliveries: Sequence[Delivery]) -> Iterator[_Handed]:
    through_at = -math.inf
    for step in deliveries:
        is_behind = step.ended_at < through_at
        starts_at = through_at if is_behind else step.ended_at
        # Clients read for themselves, so a step may seem to overtake the one before.
        through_at = max(through_at, step.last_at)
        time_s = max(MIN_DELAY_S, step.last_at - starts_at)
        first_share = min(1.0, max(0.0, (step.first_at - starts_at) / time_s))
        yield _Handed(step.num_tokens, is_behind, time_s, first_share)


def _mean_delay(delays: Sequence[float]) -> Delay:
    """Return a delay that depends on nothing; half of them may be next to 0, so they go by their mean."""
    if not delays:
        return NO_DELAY
    mean_s = sum(delays) / len(delays)
    return Delay(mean_s, spread=Spread.of([delay_s / mean_s for delay_s in delays]))


def _deliveries(run: RecordedRun) -> Iterator[Delivery]:
    of_step: defaultdict[int, list[float]] = defaultdict(list)
    for record in run.records:
        seen = run.seen.get(record.id)
        if seen is None or len(seen.stretches) != 1 or not record.is_whole:
            continue
        for number, token_at in zip(seen.steps_of_tokens(), record.token_at, strict=False):
            of_step[number].append(run.begins_at + token_at)
    for number, at in sorted(of_step.items()):
        step = run.log.steps[number]
        yield Delivery(step.num_tokens, step.ended_at, min(at), max(at))
