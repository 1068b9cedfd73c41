"""The numbers of a run, as the JSON of `niyama simulate` (design: "Commands and their JSON")."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from niyama.qos import EVERYBODY
from niyama.sim.run import Run
from niyama.sim.verdicts import CRITERIA, Criterion, Served

PERCENTILES = (50, 95, 99)


def late_share(served: Iterable[Served], criterion: Criterion) -> dict[str, float]:
    """Return the share of late requests, of all and of every class, by name."""
    num_all: defaultdict[str, int] = defaultdict(int)
    num_late: defaultdict[str, int] = defaultdict(int)
    for done in served:
        is_late = done.is_late(criterion)
        for name in (EVERYBODY, done.request.qos_class):
            num_all[name] += 1
            num_late[name] += is_late
    order = [EVERYBODY, *sorted(num_all.keys() - {EVERYBODY})]
    return {name: num_late[name] / num_all[name] for name in order if name in num_all}


def report(run: Run, *, policy: str, qps: float, criterion: Criterion) -> dict[str, Any]:
    """Return what `niyama simulate` prints, but for the wall-clock time.

    `tbt_s` are the raw gaps between tokens, all requests of a class together.
    """
    served = run.served
    num_met = sum(not done.is_late(criterion) for done in served)
    by_criterion = {name: late_share(served, name) for name in CRITERIA}
    simulated_s = run.simulated_s
    return {
        "policy": policy,
        "qps": qps,
        "criterion": criterion,
        "requests": len(served),
        "steps": run.num_steps,
        "simulated_s": simulated_s,
        "late_share": by_criterion[criterion],
        "late_share_by_criterion": by_criterion,
        "late_share_by_importance": late_share_by_importance(served, criterion),
        "goodput_rps": num_met / simulated_s if simulated_s else 0.0,
        "relegated_share": sum(done.is_relegated for done in served) / max(1, len(served)),
        "preemptions": sum(replica.num_preemptions for replica in run.replicas),
        "ttft_s": _by_class(served, [done.first_at - done.request.arrived_at for done in served]),
        "tbt_s": {name: _percentiles(*gaps(run, name)) for name in _classes(served)},
        "ttlt_s": _by_class(served, [done.finished_at - done.request.arrived_at for done in served]),
    }


def late_share_by_importance(served: Iterable[Served], criterion: Criterion) -> dict[str, float]:
    """Return the share of late requests of every importance that occurs."""
    verdicts: defaultdict[str, list[bool]] = defaultdict(list)
    for done in served:
        verdicts[done.request.importance.name.lower()].append(done.is_late(criterion))
    return {name: sum(late) / len(late) for name, late in sorted(verdicts.items())}


def gaps(run: Run, qos_class: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the times between tokens of a class, seconds, and how many tokens had each."""
    values: list[NDArray[np.float64]] = [np.empty(0)]
    counts: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for replica in run.replicas:
        if qos_class not in replica.gaps:
            continue
        kept = replica.gaps[qos_class]
        num_steps = len(replica.ended_at)
        begun = np.bincount(np.frombuffer(kept.first_steps, np.int64), minlength=num_steps + 1)
        over = np.bincount(np.frombuffer(kept.last_steps, np.int64) + 1, minlength=num_steps + 1)
        decoding = np.cumsum(begun - over)[1:num_steps]
        values += [np.diff(np.frombuffer(replica.ended_at)), np.frombuffer(kept.others_s)]
        counts += [decoding, np.ones(len(kept.others_s), np.int64)]
    value, count = np.concatenate(values), np.concatenate(counts)
    return value[count > 0], count[count > 0]


def _classes(served: Iterable[Served]) -> list[str]:
    return sorted({done.request.qos_class for done in served})


def _by_class(served: Sequence[Served], values: Sequence[float]) -> dict[str, dict[str, float | None]]:
    of_class: defaultdict[str, list[float]] = defaultdict(list)
    for done, value in zip(served, values, strict=True):
        of_class[done.request.qos_class].append(value)
    return {name: _percentiles(np.array(of_class[name]), None) for name in sorted(of_class)}


def _percentiles(values: NDArray[np.float64], counts: NDArray[np.int64] | None) -> dict[str, float | None]:
    """Return the smallest value that so many per cent are at most; None if there are no values."""
    if not len(values):
        return {f"p{percent}": None for percent in PERCENTILES}
    order = np.argsort(values, kind="stable")
    upto = np.arange(1, len(values) + 1) if counts is None else np.cumsum(counts[order])
    wanted = np.ceil(upto[-1] * np.array(PERCENTILES) / 100)
    places = np.searchsorted(upto, wanted)
    return {
        f"p{percent}": float(values[order[place]]) for percent, place in zip(PERCENTILES, places, strict=True)
    }
