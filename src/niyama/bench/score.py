"""The numbers of a run: who was late, how long everything took, and whether the run counts.

A request is judged by the code that judges simulated ones (`niyama.sim.verdicts`), from the instants at which
the client saw its tokens; it arrives at its planned instant. One that failed is late by
every criterion; one that hung up on purpose is not scored.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from niyama.bench.client import Flight, Rules
from niyama.bench.planned import Planned
from niyama.bench.records import Record
from niyama.qos import QosBook, Slo
from niyama.scheduling.policy import Request
from niyama.sim.verdicts import CRITERIA, Criterion, Served, worst_lag_s

PERCENTILES = (50, 90, 95, 99)

Shares = dict[str, float]
"""A share for `all` and for every class that occurs."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A scored request and the promise that it is held to."""

    record: Record
    slo: Slo

    def is_late(self, criterion: Criterion, slo: Slo | None = None) -> bool:
        """Whether the promise, or `slo` instead of it, was broken."""
        record = self.record
        if not record.is_whole:
            return True
        slo = slo or self.slo
        token_at = record.token_at
        worst_s = 0.0 if slo.tbt_s is None else worst_lag_s(array("d", token_at), slo.tbt_s, 0)
        request = Request(
            record.id,
            record.due_at,
            slo,
            record.num_prompt_tokens,
            record.num_output_tokens,
            record.qos_class,
        )
        served = Served(request, token_at[0], token_at[-1], len(token_at), worst_s, False, 0)
        return served.is_late(criterion)


def judge(records: Iterable[Record], book: QosBook) -> list[Judged]:
    """Return the requests that are scored: those that were sent and did not leave on purpose.

    Raises:
        KeyError: a record's class is not in the book.
    """
    return [
        Judged(record, book.classes[record.qos_class].slo)
        for record in records
        if record.sent_at is not None and not record.has_left
    ]


class LateWatch:
    """Tells as soon as a class has more late requests than a share of all that are planned of it.

    What is still to come cannot change that, so a search for the highest load in time ends the run there.
    Who has waited for longer than promised counts at once, and not when the answer ends: a request that
    is set aside may be served last of all.
    """

    def __init__(self, planned: Sequence[Planned], book: QosBook, max_share: float) -> None:
        """Take what is planned, and the share from 0 to 1 that may be late by the criterion `strict`."""
        self._book = book
        self._num_late: Counter[str] = Counter()
        self._overdue: set[str] = set()
        num = Counter(request.qos_class for request in planned)
        self._num_allowed = {name: int(max_share * count) for name, count in num.items()}
        # Per class, when each answer must have begun (TTFT) or be whole (TTLT), and its place in the plan.
        self._ends: defaultdict[str, deque[tuple[float, int]]] = defaultdict(deque)
        for place, request in enumerate(planned):
            slo = book.classes[request.qos_class].slo
            promised_s = slo.ttlt_s if slo.ttft_s is None else slo.ttft_s
            if promised_s is not None:
                self._ends[request.qos_class].append((request.due_at + promised_s, place))

    def __call__(self, record: Record, records: Sequence[Record], now_s: float) -> str | None:
        """Count an answer that ended, and who is overdue; return a class that is settled, in words.

        Args:
            record: Whose answer ended.
            records: Of all that are planned, in the order of the plan.
            now_s: The time since the run began.
        """
        if record.id not in self._overdue:
            self._num_late[record.qos_class] += sum(
                one.is_late("strict") for one in judge([record], self._book)
            )
        for overdue in self._newly_overdue(records, now_s):
            self._overdue.add(overdue.id)
            self._num_late[overdue.qos_class] += 1
        for name in (record.qos_class, *self._num_late):
            if self._num_late[name] > self._num_allowed[name]:
                return f"{self._num_late[name]} late requests of class {name}"
        return None

    def _newly_overdue(self, records: Sequence[Record], now_s: float) -> Iterator[Record]:
        """Yield who waits, for longer than promised since the last call. O(1) per request in all."""
        for name, ends in self._ends.items():
            has_ttft = self._book.classes[name].slo.ttft_s is not None
            while ends and ends[0][0] < now_s:
                promised_at, place = ends.popleft()
                record = records[place]
                num_needed = 1 if has_ttft else record.num_output_tokens
                [needed_at] = record.token_at[num_needed - 1 : num_needed] or [math.inf]
                if record.sent_at is not None and record.finished_at is None and needed_at > promised_at:
                    yield record


def score(records: Sequence[Record], book: QosBook, criterion: Criterion, wall_s: float) -> dict[str, Any]:
    """Return what a run shows of the server (docs/bench.md has the keys).

    Args:
        records: Of the run.
        book: The promises.
        criterion: By which `late_share` and `goodput_rps` judge.
        wall_s: From the start to the end of the last answer.
    """
    judged = judge(records, book)
    whole = [one.record for one in judged if one.record.is_whole]
    by_criterion = {name: late_share(judged, name) for name in CRITERIA}
    num_in_time = sum(not one.is_late(criterion) for one in judged)
    duration_s = max(wall_s, 1e-9)
    output = sum(len(one.record.token_at) for one in judged)
    prompt = sum(r.num_prompt_tokens_served or r.num_prompt_tokens for r in whole)
    return {
        "criterion": criterion,
        "requests": len(judged),
        "errors": _errors(judged),
        "left": sum(record.has_left for record in records),
        "wall_s": wall_s,
        "late_share": by_criterion[criterion],
        "late_share_by_criterion": by_criterion,
        "late_share_by_importance": _late_by_importance(judged, criterion),
        "late_share_by_part": {part: _late_by_part(judged, part) for part in ("ttft", "tbt", "ttlt")},
        "goodput_rps": num_in_time / duration_s,
        "finished_rps": len(whole) / duration_s,
        "throughput_tps": output / duration_s,
        "prompt_tps": prompt / duration_s,
        "ttft_s": _by_class(whole, lambda r: [r.token_at[0] - r.due_at]),
        "tbt_s": _by_class(whole, lambda r: [b - a for a, b in pairwise(r.token_at)]),
        "ttlt_s": _by_class(whole, lambda r: [r.token_at[-1] - r.due_at]),
        "lengths": _lengths(whole),
        "served_class_off_share": _class_off_share(whole),
    }


def late_share(judged: Iterable[Judged], criterion: Criterion) -> Shares:
    """Return the share of late requests, of all and of every class, by name."""
    return _shares((one.record.qos_class, one.is_late(criterion)) for one in judged)


def _shares(verdicts: Iterable[tuple[str, bool]]) -> Shares:
    num: Counter[str] = Counter()
    num_late: Counter[str] = Counter()
    for name, is_late in verdicts:
        for key in ("all", name):
            num[key] += 1
            num_late[key] += is_late
    return {
        name: num_late[name] / num[name] for name in ("all", *sorted(num.keys() - {"all"})) if name in num
    }


def _late_by_importance(judged: Iterable[Judged], criterion: Criterion) -> Shares:
    shares = _shares((one.record.importance.name.lower(), one.is_late(criterion)) for one in judged)
    return {name: share for name, share in shares.items() if name != "all"}


def _late_by_part(judged: Iterable[Judged], part: str) -> Shares:
    """Return the share of those promised a part that did not get it, by the strict criterion."""
    verdicts: list[tuple[str, bool]] = []
    for one in judged:
        promised = getattr(one.slo, f"{part}_s")
        if promised is not None:
            verdicts.append((one.record.qos_class, one.is_late("strict", Slo(**{f"{part}_s": promised}))))
    return _shares(verdicts)


def _errors(judged: Iterable[Judged]) -> dict[str, Any]:
    causes = Counter(one.record.error for one in judged if one.record.error is not None)
    return {"count": causes.total(), "causes": dict(causes.most_common(10))}


def _by_class(
    records: Iterable[Record], values_of: Callable[[Record], list[float]]
) -> dict[str, dict[str, float | None]]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        of_request = values_of(record)
        values["all"] += of_request
        values[record.qos_class] += of_request
    names = ["all", *sorted(values.keys() - {"all"})] if values else []
    return {name: percentiles(values[name]) for name in names}


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and percentiles, each the smallest value that so many per cent are at most."""
    if not values:
        return {"mean": None, **{f"p{percent}": None for percent in PERCENTILES}}
    found = np.percentile(np.array(values), PERCENTILES, method="inverted_cdf")
    names = (f"p{percent}" for percent in PERCENTILES)
    return {"mean": math.fsum(values) / len(values), **dict(zip(names, map(float, found), strict=True))}


def _lengths(whole: Sequence[Record]) -> dict[str, Any]:
    """Return how far the lengths that were served are from those that were asked for."""
    counted = [r for r in whole if r.num_prompt_tokens_served is not None]
    off = sum(r.num_prompt_tokens_served != r.num_prompt_tokens for r in counted)
    other = sum(r.num_output_tokens_served != r.num_output_tokens for r in whole)
    return {
        "mean_prompt_tokens": _mean(r.num_prompt_tokens_served or r.num_prompt_tokens for r in whole),
        "mean_output_tokens": _mean(len(r.token_at) for r in whole),
        "prompt_off_share": off / len(counted) if counted else None,
        "output_off_share": other / len(whole) if whole else None,
    }


def _class_off_share(whole: Sequence[Record]) -> float | None:
    """Return the share of answers of another class than asked; None if no answer told its class."""
    told = [record for record in whole if record.served_class is not None]
    return sum(record.served_class != record.qos_class for record in told) / len(told) if told else None


def _mean(values: Iterable[int]) -> float | None:
    every = list(values)
    return sum(every) / len(every) if every else None


def client_figures(flight: Flight, rules: Rules) -> dict[str, Any]:
    """Return how the client itself fared, and whether the run counts."""
    send, loop = _lags(flight.send_lags_s), _lags(flight.loop_lags_s)
    reasons: list[str] = []
    bound_ms = 1000 * rules.max_lag_s
    for what, lags in (("requests were sent", send), ("the client's event loop was", loop)):
        if lags["p99"] is not None and lags["p99"] > rules.max_lag_s:
            late_ms = 1000 * lags["p99"]
            reasons.append(
                f"the client fell behind: {what} up to {late_ms:.0f} ms late (p99), bound {bound_ms:.0f} ms"
            )
    if flight.stopped_by is not None:
        reasons.append(f"stopped after {flight.stopped_by}")
    num_tokens = flight.num_tokens
    return {
        "valid": not reasons,
        "invalid_because": reasons,
        "client": {
            "max_lag_s": rules.max_lag_s,
            "send_lag_s": send,
            "loop_lag_s": loop,
            "cpu_s": flight.cpu_s,
            "cpu_share": flight.cpu_s / max(flight.wall_s, 1e-9),
            "cpu_us_per_token": 1e6 * flight.cpu_s / num_tokens if num_tokens else None,
        },
    }


def _lags(lags_s: Sequence[float]) -> dict[str, float | None]:
    if not lags_s:
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(np.array(lags_s), (50, 99), method="inverted_cdf")
    return {"p50": float(p50), "p99": float(p99), "max": max(lags_s)}
