"""`niyama steps FILE`: how well the step-time model predicted a server's steps (its `--step-log`)."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from niyama.wording import one_line, shown

SMALL_CHUNK_TOKENS = 256
REGIMES = ("all", "decode only", f"chunk <= {SMALL_CHUNK_TOKENS}", f"chunk > {SMALL_CHUNK_TOKENS}")
_NUMBERS = ("duration_s", "predicted_s", "margin_s", "num_prefill_tokens", "num_decode_tokens")
_OPTIONAL_NUMBERS = ("planned_tokens", "realised_tokens")


class StepLogError(ValueError):
    """A step log that cannot be read; the message is one line and names file and line."""


@dataclass(slots=True)
class StepErrors:
    """Sums over steps of one regime, and what they say of the predictions.

    `mean_abs_error_share` is the mean absolute error over the mean duration; `late_share` the share
    of steps that took longer than prediction plus margin; `mean_margin_share` the margins over the
    predictions.
    """

    num_steps: int = 0
    num_late: int = 0
    duration_s: float = 0.0
    error_s: float = 0.0
    predicted_s: float = 0.0
    margin_s: float = 0.0

    def add(self, duration_s: float, predicted_s: float, margin_s: float) -> None:
        """Count one step."""
        self.num_steps += 1
        self.num_late += duration_s > predicted_s + margin_s
        self.duration_s += duration_s
        self.error_s += abs(duration_s - predicted_s)
        self.predicted_s += predicted_s
        self.margin_s += margin_s

    def summary(self) -> dict[str, float | int | None]:
        """Return the figures as plain numbers; None where there is no step to speak of."""
        return {
            "steps": self.num_steps,
            "mean_step_s": _ratio(self.duration_s, self.num_steps),
            "mean_abs_error_share": _ratio(self.error_s, self.duration_s),
            "late_share": _ratio(self.num_late, self.num_steps),
            "mean_margin_share": _ratio(self.margin_s, self.predicted_s),
        }


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `steps`."""
    parser = subparsers.add_parser(
        "steps", help="print how well a server's step times were predicted", description=__doc__
    )
    parser.add_argument("file", metavar="FILE", help="a step log: JSON lines, one per step")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON; - for stdout, alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Summarise one log; returns 0, or 2 after one line on stderr if a file cannot be used."""
    try:
        with open(args.file, encoding="utf-8") as log:
            report = summarise(read_steps(log, args.file))
        text = json.dumps(report, indent=2) + "\n"
        if args.json not in (None, "-"):
            Path(args.json).write_text(text, encoding="utf-8")
    except (StepLogError, UnicodeDecodeError) as error:
        print(one_line(str(error)), file=sys.stderr)
        return 2
    except OSError as error:
        print(one_line(f"{error.filename}: {error.strerror}"), file=sys.stderr)
        return 2
    sys.stdout.write(text if args.json == "-" else describe(report))
    return 0


def read_steps(log: TextIO, name: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a log; blank lines pass, unknown keys too, and a torn last line of a killed server.

    Raises:
        StepLogError: A line is not a JSON object, or a number in it is missing or not a finite number >= 0.
    """
    for number, line in enumerate(log, start=1):
        if not line.strip():
            continue
        try:
            step = json.loads(line)
        except ValueError as error:
            if not line.endswith("\n"):
                return
            raise StepLogError(f"{name}:{number}: not JSON: {error}") from None
        if not isinstance(step, dict):
            raise StepLogError(f"{name}:{number}: {shown(step)}: a step is a JSON object")
        for key in _NUMBERS + tuple(key for key in _OPTIONAL_NUMBERS if step.get(key) is not None):
            value = step.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise StepLogError(f"{name}:{number}: {key}: {shown(value)}: give a finite number >= 0")
        yield step


def summarise(steps: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a log: errors per regime over clean steps, plan against realised over all."""
    errors = {regime: StepErrors() for regime in REGIMES}
    num_steps = num_unclean = planned = realised = num_short = 0
    for step in steps:
        num_steps += 1
        planned_tokens, realised_tokens = step.get("planned_tokens"), step.get("realised_tokens")
        if planned_tokens is not None and realised_tokens is not None:
            planned += planned_tokens
            realised += realised_tokens
            num_short += realised_tokens < planned_tokens
        if step.get("is_clean", True):
            for regime in ("all", _regime(step["num_prefill_tokens"])):
                errors[regime].add(step["duration_s"], step["predicted_s"], step["margin_s"])
        else:
            num_unclean += 1
    return {
        "steps": num_steps,
        "unclean_steps": num_unclean,
        "regimes": {regime: sums.summary() for regime, sums in errors.items()},
        "plan": {"planned_tokens": planned, "realised_tokens": realised, "short_steps": num_short},
    }


def describe(report: dict[str, Any]) -> str:
    """Return the report as a table for people."""
    lines = [f"{'STEPS OF':14}{'STEPS':>8}{'MEAN':>11}{'ERROR':>8}{'LATE':>8}{'MARGIN':>8}"]
    for regime, row in report["regimes"].items():
        mean_s = row["mean_step_s"]
        mean = "-" if mean_s is None else f"{mean_s * 1e3:.2f} ms"
        shares = (row["mean_abs_error_share"], row["late_share"], row["mean_margin_share"])
        cells = "".join(f"{'-' if share is None else f'{share:.1%}':>8}" for share in shares)
        lines.append(f"{regime:14}{row['steps']:>8}{mean:>11}{cells}")
    plan = report["plan"]
    lines += [
        "",
        f"{report['steps']} steps, {report['unclean_steps']} left out above (idle gap or compilation)",
        f"planned {plan['planned_tokens']} tokens, realised {plan['realised_tokens']}; "
        f"{plan['short_steps']} steps realised fewer than planned",
        "ERROR: mean absolute error over mean time. LATE: longer than prediction plus margin.",
    ]
    return "\n".join(lines) + "\n"


def _regime(num_prefill_tokens: float) -> str:
    if num_prefill_tokens == 0:
        return REGIMES[1]
    return REGIMES[2] if num_prefill_tokens <= SMALL_CHUNK_TOKENS else REGIMES[3]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
