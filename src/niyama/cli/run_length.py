"""How long requests arrive in a simulation, from the command line, and what that is too short to show."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niyama.cli import UsageError
from niyama.wording import shown

if TYPE_CHECKING:
    from niyama.workload.generate import Workload

SHORTEST_RUN_S = 4 * 3600.0
RUN_PER_SLO = 8
"""A run lasts at least this long, and so many times the longest promise: short runs flatter
policies that are overloaded, because lateness needs time to build up."""

LONGEST_RUN_S = 366 * 24 * 3600.0
"""A year. Longer runs are asked for by mistake, and do not end."""


def add_length_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how many requests arrive, or for how long."""
    parser.add_argument("--requests", type=int, metavar="N", help="how many requests arrive")
    parser.add_argument(
        "--hours",
        type=float,
        metavar="H",
        help="for how long they arrive (default: 4, or 8 times the longest SLO; whole periods of --arrivals)",
    )


@dataclass(frozen=True, slots=True)
class RunLength:
    """How long a run is: the one or the other, which is then not None.

    Attributes:
        duration_s: For how long requests arrive, seconds.
        num_requests: How many arrive.
    """

    duration_s: float | None
    num_requests: int | None

    def size(self, qps: float) -> int:
        """Return how many requests arrive at a rate."""
        if self.num_requests is not None:
            return self.num_requests
        return max(1, round((self.duration_s or 0.0) * qps))

    def notes(self, workload: Workload, qps: float) -> list[str]:
        """Return what a run at a rate is too short to show, a sentence each."""
        from niyama.workload.runlength import length_notes, longest_slo_s, period_of

        arrivals_s = self.num_requests / qps if self.num_requests is not None else self.duration_s or 0.0
        return length_notes(arrivals_s, longest_slo_s(workload), arrivals_s, period_of(workload))


def run_length(args: argparse.Namespace, workload: Workload) -> RunLength:
    """Return the length that is asked for, or the usual one. Raises UsageError naming the option."""
    if args.requests is not None and args.hours is not None:
        raise UsageError("--requests and --hours: both are given; allowed: one of them")
    if args.requests is not None:
        if args.requests < 1:
            raise UsageError(f"--requests: {args.requests} is none; allowed: a whole number >= 1")
        return RunLength(None, int(args.requests))
    if args.hours is not None:
        if not 0 < args.hours * 3600.0 < LONGEST_RUN_S:
            raise UsageError(f"--hours: {args.hours:g} is not a duration; allowed: hours > 0, below a year")
        return RunLength(float(args.hours) * 3600.0, None)
    return RunLength(_usual_s(args, workload), None)


def _usual_s(args: argparse.Namespace, workload: Workload) -> float:
    """Return the length of a run when none is asked for, seconds: whole periods, if arrivals have any."""
    from niyama.workload.runlength import period_of

    promises = [c.slo for c in workload.book.classes.values()]
    slos = (part for slo in promises for part in (slo.ttft_s, slo.ttlt_s) if part is not None)
    least_s = max(SHORTEST_RUN_S, RUN_PER_SLO * max(slos, default=0.0))
    period_s = period_of(workload)
    if period_s is None:
        return least_s
    if period_s > LONGEST_RUN_S:
        raise UsageError(
            f"--arrivals: {shown(args.arrivals)} has a period of more than a year; "
            "allowed: a shorter one, or --hours or --requests beside it"
        )
    return math.ceil(least_s / period_s) * period_s


def note_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the notes of a result as the last lines of a text, after an empty one if there are any."""
    lines = [f"note: {note}" for note in result["notes"]]
    return ["", *lines] if lines else []
