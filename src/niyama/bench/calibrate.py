"""From recorded runs to a profile: step times with their spread, and the delays around the engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from niyama.bench.decisions import FORMAT, DecisionLogError, parse_calls, parts_of
from niyama.bench.delays import fit_overheads
from niyama.bench.recordedrun import RecordedRun, RunError, load_run
from niyama.bench.serverlog import ServerLog, Step
from niyama.latency.profilefile import Calibration
from niyama.latency.stepfit import REGIMES, Sample, errors_by_regime, fit_steps, scatter_of
from niyama.scheduling.policy import BatchShape
from niyama.wording import one_line, shown

HELD_OUT_EVERY = 5
BLOCK_STEPS = 20
"""Every fifth block of 20 steps, of few steps shorter, is held out: neighbouring steps are alike, so single
ones would flatter."""


@dataclass(slots=True)
class Source:
    """What a calibration is made from.

    Attributes:
        name: File or folder, for people.
        samples: Clean steps, in order; of a run, those while its requests were in.
        run: The whole run, if client records are there.
        engine: The server's limits, if its log says them; of several servers, those of the one with the
            most steps.
    """

    name: str
    samples: list[Sample]
    run: RecordedRun | None = None
    engine: dict[str, Any] = field(default_factory=dict[str, Any])


def load_source(path: Path) -> Source:
    """Return what a path holds: a folder is a run, a file a step log or a decision log.

    Raises:
        RunError: it is none of these, or cannot be read.
    """
    if path.is_dir():
        run = load_run(path)
        return Source(path.name, clean_steps(run.steps), run, run.log.engine)
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise RunError(one_line(f"{path}: cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise RunError(f"{path}: not UTF-8 text; give a run's folder, a step log or a decision log") from None
    # Not the first line alone: it may be torn.
    if any(f'"{FORMAT}"' in line for line in lines):
        return _of_decision_log(lines, path)
    return Source(path.name, list(_step_log_samples(lines, str(path))))


def clean_steps(steps: Sequence[Step]) -> list[Sample]:
    """Return the steps whose duration tells their cost."""
    return [Sample(step.shape, step.duration_s) for step in steps if step.is_clean and step.duration_s > 0]


def calibrate(sources: Sequence[Source], name: str) -> Calibration:
    """Return the profile that fits all sources together.

    The errors are of a second fit, on four fifths of the steps, on the other fifth.

    Raises:
        ValueError: there are too few steps or, with client records, too few requests.
    """
    samples = [sample for source in sources for sample in source.samples]
    step = fit_steps(samples)
    spreads, stalls = scatter_of(step, samples)
    runs = [source.run for source in sources if source.run is not None]
    return Calibration(
        name=name,
        step=step,
        spreads=spreads,
        stalls=stalls,
        overheads=fit_overheads(runs) if runs else None,
        errors=held_out_errors(samples),
        engine=next((source.engine for source in sources if source.engine), {}),
        sources=tuple(source.name for source in sources),
    )


def held_out_errors(samples: Sequence[Sample]) -> dict[str, dict[str, float | int | None]]:
    """Return the errors on every fifth block of a fit of the others."""
    block = max(1, min(BLOCK_STEPS, len(samples) // HELD_OUT_EVERY**2))
    seen: list[Sample] = []
    held_out: list[Sample] = []
    for place, sample in enumerate(samples):
        is_held_out = place // block % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        (held_out if is_held_out else seen).append(sample)
    return errors_by_regime(fit_steps(seen, min_steps=1), held_out)


def describe(calibration: Calibration) -> str:
    """Return the errors and the delays as a table for people."""
    lines = [f"{'HELD-OUT STEPS OF':20}{'STEPS':>8}{'MEAN':>11}{'ERROR':>8}{'BIAS':>8}{'MEDIAN ERROR':>14}"]
    for regime in ("all", *REGIMES):
        row = calibration.errors[regime]
        if not row["steps"]:
            lines.append(f"{regime:20}{0:>8}{'-':>11}{'-':>8}{'-':>8}{'-':>14}")
            continue
        mean_ms = f"{1e3 * row['mean_step_s']:.2f} ms"
        lines.append(
            f"{regime:20}{row['steps']:>8}{mean_ms:>11}{row['mean_abs_error_share']:>8.1%}"
            f"{row['bias_share']:>+8.1%}{row['median_abs_error_share']:>14.1%}"
        )
    lines.append("ERROR: mean absolute error over mean time. BIAS: positive where predicted too long.")
    if calibration.overheads is not None:
        lines += ["", f"{'DELAY':20}{'P50':>11}{'P90':>11}{'P99':>11}"]
        send, take, token = (getattr(calibration.overheads, name) for name in ("send", "take", "token"))
        for label, usual_s, spread in (
            ("client to server", send.expected_s(8, 256), send.spread),
            ("server to scheduler", take.expected_s(8, 256), take.spread),
            ("tokens to clients", token.idle.expected_s(8), token.idle.spread),
        ):
            cells = (f"{1e3 * usual_s * spread.quantile(q):.2f} ms" for q in (0.5, 0.9, 0.99))
            lines.append(f"{label:20}" + "".join(f"{cell:>11}" for cell in cells))
        lines.append("Delays are those beside a batch of 8 and of a prompt of 256 tokens.")
    return "\n".join(lines) + "\n"


def _of_decision_log(lines: Sequence[str], path: Path) -> Source:
    """Return the steps of all servers that wrote to a log. Raises RunError naming the line."""
    try:
        logs = [ServerLog.of(part) for part in parts_of(parse_calls(lines, str(path)))]
    except DecisionLogError as error:
        raise RunError(str(error)) from None
    samples = [sample for log in logs for sample in clean_steps(log.steps)]
    return Source(path.name, samples, None, max(logs, key=lambda log: len(log.steps)).engine)


def _step_log_samples(lines: Sequence[str], name: str) -> Iterator[Sample]:
    """Yield the clean steps of a step log; a torn last line is left out. Raises RunError naming the line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            step = json.loads(line)
            shape = BatchShape(*(step[key] for key in BatchShape._fields))
            duration_s = float(step["duration_s"])
        except (ValueError, KeyError, TypeError) as error:
            if number > 1 and isinstance(error, json.JSONDecodeError) and not line.endswith("\n"):
                return
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise RunError(one_line(f"{name}:{number}: {shown(line.strip())}: no step: {reason}")) from None
        if step.get("is_clean", True) and duration_s > 0:
            yield Sample(shape, duration_s)
