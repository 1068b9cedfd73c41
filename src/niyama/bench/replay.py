"""Simulated against measured: the same figures of a recorded run and of its twin, and how far apart."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from niyama.bench.calibrate import clean_steps
from niyama.bench.machinespeed import MachineSpeed
from niyama.bench.recordedrun import RecordedRun
from niyama.bench.score import Judged
from niyama.bench.serverlog import Step
from niyama.bench.twin import Twin, requests_of, twin_of
from niyama.latency.profilefile import Calibration
from niyama.latency.stepfit import errors_by_regime
from niyama.sim.verdicts import CRITERIA, Criterion

PERCENTILES = (50, 90, 99)
METRICS = ("ttft_s", "tbt_s", "ttlt_s")


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run and its twin.

    Attributes:
        report: Figures of both and their difference, for JSON.
        measured: Every answer that was recorded; instants are seconds from the start of the run.
        simulated: The same of the first repeat.
    """

    report: dict[str, Any]
    measured: list[Judged]
    simulated: list[Judged]


def replay(
    run: RecordedRun,
    calibration: Calibration,
    *,
    seed: int = 0,
    repeats: int = 3,
    wants_own_speed: bool = False,
) -> Replayed:
    """Simulate a recorded run and set the figures of both side by side.

    Args:
        run: What was recorded.
        calibration: Of the same kind of server.
        seed: Of the first repeat's draws; each further one has the next.
        repeats: Simulations over whose figures the mean is taken, >= 1.
        wants_own_speed: Whether the machine is as fast, from moment to moment, as the run's own steps say.

    Raises:
        RunError: the run cannot be simulated.
    """
    promised = {one.record_id: one.request.slo for one in requests_of(run)}
    measured = [Judged(record, promised[record.id]) for record in run.records if record.id in promised]
    real = figures(measured, run.steps)
    speed = MachineSpeed(run.steps, calibration.step) if wants_own_speed else None
    twins = [twin_of(run, calibration, seed + number, speed) for number in range(repeats)]
    answers = [_answers(run, twin, measured) for twin in twins]
    simulated = [figures(some, twin.log.steps) for some, twin in zip(answers, twins, strict=True)]
    mean = _mean(simulated)
    report = {
        "run": run.name,
        "profile": calibration.name,
        "policy": run.log.start["settings"]["policy"] if run.log.start else None,
        "requests": len(measured),
        "left_out": len(run.records) - len(measured),
        "seed": seed,
        "repeats": repeats,
        "measured": real,
        "simulated": mean,
        "simulated_spread": _spread(simulated),
        "error": errors(real, mean),
        "own_speed": None if speed is None else speed.to_mapping(),
        "steps_against_profile": errors_by_regime(calibration.step, clean_steps(run.steps)),
        "realised_otherwise_by_cause": dict(sorted(run.causes.items())),
    }
    return Replayed(report, measured, answers[0])


def figures(answers: Sequence[Judged], steps: Sequence[Step]) -> dict[str, Any]:
    """Return what is compared: attainment and percentiles of all and by class, steps and chunks."""
    by_class: defaultdict[str, list[Judged]] = defaultdict(list)
    for answer in answers:
        by_class[answer.record.qos_class].append(answer)
    groups = {"all": list(answers), **dict(sorted(by_class.items()))}
    chunks = [step.shape.num_prefill_tokens for step in steps if step.shape.num_prefill_tokens]
    return {
        "attainment": {
            criterion: {name: _attainment(some, criterion) for name, some in groups.items()}
            for criterion in CRITERIA
        },
        **{
            metric: {name: _percentiles(_values(some, metric)) for name, some in groups.items()}
            for metric in METRICS
        },
        "steps": len(steps),
        "busy_s": sum(step.duration_s for step in steps),
        "mean_batch": statistics.fmean(step.num_tokens for step in steps) if steps else None,
        "prefill_tokens": sum(chunks),
        "chunk_tokens": {**_percentiles(chunks), "mean": statistics.fmean(chunks) if chunks else None},
    }


def errors(measured: Mapping[str, Any], simulated: Mapping[str, Any]) -> dict[str, Any]:
    """Return simulated against measured: relative for times and counts, absolute for attainment."""
    found: dict[str, Any] = {}
    for key, real in measured.items():
        if isinstance(real, Mapping):
            found[key] = (
                {
                    c: {n: _difference(simulated[key][c][n], v) for n, v in of.items()}
                    for c, of in real.items()
                }
                if key == "attainment"
                else errors(real, simulated[key])
            )
        else:
            found[key] = _relative(simulated[key], real)
    return found


def _answers(run: RecordedRun, twin: Twin, measured: Iterable[Judged]) -> list[Judged]:
    """Return the measured answers with the twin's instants."""
    answers: list[Judged] = []
    for judged in measured:
        token_at = [at - run.begins_at for at in twin.token_at[judged.record.id]]
        record = replace(judged.record, token_at=token_at, finished_at=token_at[-1])
        answers.append(Judged(record, judged.slo))
    return answers


def _attainment(answers: Sequence[Judged], criterion: Criterion) -> float | None:
    if not answers:
        return None
    return statistics.fmean(not answer.is_late(criterion) for answer in answers)


def _values(answers: Iterable[Judged], metric: str) -> list[float]:
    if metric == "ttft_s":
        return [answer.record.token_at[0] - answer.record.due_at for answer in answers]
    if metric == "ttlt_s":
        return [answer.record.token_at[-1] - answer.record.due_at for answer in answers]
    return [gap for answer in answers for gap in np.diff(answer.record.token_at).tolist()]


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {f"p{percent}": None for percent in PERCENTILES}
    # Interpolated, unlike a run's own figures: a jump between neighbours is no error of the twin.
    found = np.percentile(np.array(values, dtype=float), PERCENTILES)
    return {f"p{percent}": float(value) for percent, value in zip(PERCENTILES, found, strict=True)}


def _difference(simulated: float | None, measured: float | None) -> float | None:
    return None if simulated is None or measured is None else simulated - measured


def _relative(simulated: float | None, measured: float | None) -> float | None:
    if simulated is None or not measured:
        return None
    return simulated / measured - 1.0


def _mean(repeats: Sequence[Any]) -> Any:
    """Return the mean of figures of the same form; None where there is none."""
    if isinstance(repeats[0], Mapping):
        return {key: _mean([one[key] for one in repeats]) for key in repeats[0]}
    values = [value for value in repeats if value is not None]
    return statistics.fmean(values) if values else None


def _spread(repeats: Sequence[Any]) -> Any:
    """Return highest less lowest of figures of the same form; None where there is none."""
    if isinstance(repeats[0], Mapping):
        return {key: _spread([one[key] for one in repeats]) for key in repeats[0]}
    values = [value for value in repeats if value is not None]
    return max(values) - min(values) if values else None
