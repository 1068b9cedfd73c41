"""What `simulate` and `capacity` share: the workload and the fleet, from the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from niyama.cli import UsageError
from niyama.cli.limit_options import add_limit_options, limits_of
from niyama.cli.router_options import add_router_options, router_of
from niyama.cli.run_length import add_length_options
from niyama.qos import QosBook, paper_book
from niyama.wording import listed, one_line, shown

LOWEST_QPS = 1e-4
HIGHEST_QPS = 1e5
"""A request in three hours; what ten thousand replicas serve."""

FIRST_WORD_S = 2.0
"""Work that is done sooner shows no progress."""


def add_options(parser: argparse.ArgumentParser, *, has_size: bool = True) -> None:
    """Add the options that describe a workload and a fleet, the fleet's size if it is given."""
    parser.add_argument(
        "--trace",
        default="azure-code",
        metavar="FILE|PRESET",
        help="lengths: azure-code, azure-conv, sharegpt, or a trace file, CSV or JSONL",
    )
    add_length_options(parser)
    parser.add_argument(
        "--arrivals",
        default="poisson",
        metavar="PROCESS",
        help="poisson, gamma:CV, square:LOW:HIGH:SECONDS, diurnal:SWING:SECONDS, recorded",
    )
    parser.add_argument("--qos", metavar="FILE", help="the classes (default: the paper's three)")
    parser.add_argument(
        "--mix", default="", metavar="A=1,B=2", help="weights of the classes (default: equal)"
    )
    parser.add_argument("--tenants", default="", metavar="A=1,B=2", help="weights of tenants")
    parser.add_argument(
        "--low-share",
        type=float,
        default=0.0,
        metavar="S",
        help="share of requests of low importance, 0 to 1",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--criterion",
        default="strict",
        metavar="C",
        help="when a request is late: strict, paper or artifact (default: %(default)s)",
    )
    parser.add_argument(
        "--profile",
        default="a100-80gb/llama-3-8b/tp1",
        metavar="NAME",
        help="step times (default: %(default)s)",
    )
    parser.add_argument("--chunk", type=int, metavar="N", help="tokens per step of fixed-chunk policies")
    add_limit_options(parser)
    if has_size:
        parser.add_argument("--replicas", type=int, default=1, metavar="N", help="size of the fleet")
    else:
        parser.set_defaults(replicas=1)
    add_router_options(parser)
    parser.add_argument("--check", action="store_true", help="check every law at every step; slow")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout, alone")


def add_max_late_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says when a load is served."""
    parser.add_argument(
        "--max-late",
        type=float,
        default=0.01,
        metavar="S",
        help="share of a class that may be late (default: %(default)s)",
    )


def check_max_late(args: argparse.Namespace) -> None:
    """Refuse a share that is none. Raises UsageError."""
    if not 0 <= args.max_late < 1:
        raise UsageError(f"--max-late: {args.max_late:g} is no share; allowed: 0 to below 1")


def check_qps(args: argparse.Namespace) -> None:
    """Refuse a rate that is none, or that no run could end at. Raises UsageError."""
    if not LOWEST_QPS <= args.qps <= HIGHEST_QPS:
        allowed = f"{LOWEST_QPS:g} to {HIGHEST_QPS:.0f} requests per second"
        raise UsageError(f"--qps: {args.qps:g} is not a rate; allowed: {allowed}")


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how many processes work."""
    parser.add_argument("--jobs", default="1", metavar="N", help="processes, or all (default: %(default)s)")


def num_jobs(args: argparse.Namespace) -> int:
    """Return how many processes to use. Raises UsageError."""
    if args.jobs == "all":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not (args.jobs.isdecimal() and int(args.jobs) >= 1):
        raise UsageError(f"--jobs: {shown(args.jobs)} is not allowed; give a whole number >= 1, or all")
    return int(args.jobs)


def chunk_list(option: str, text: str) -> list[int]:
    """Return the chunks in `256,512`. Raises UsageError naming the option."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if not (word.isdecimal() and int(word) >= 1):
            raise UsageError(f"{option}: {shown(word)} is no chunk; allowed: tokens per step, >= 1")
    return [int(word) for word in words]


def make_book(args: argparse.Namespace) -> QosBook:
    """Return the classes. Raises UsageError naming file and line."""
    from niyama.qosfile import QosFileError, load_book

    if args.qos is None:
        return paper_book()
    try:
        return load_book(args.qos)
    except QosFileError as error:
        raise UsageError(str(error)) from None


def make_workload(args: argparse.Namespace, book: QosBook | None = None) -> Any:
    """Return the workload; its classes are those of `--qos` if `book` is None.

    Raises UsageError naming the option.
    """
    from niyama.workload.arrivals import parse_arrivals
    from niyama.workload.generate import Workload, load_lengths

    try:
        lengths = load_lengths(args.trace)
        instants = [row.arrived_at for row in lengths if row.arrived_at is not None]
        arrivals = parse_arrivals(args.arrivals, instants if len(instants) == len(lengths) else [])
        return Workload(
            name=args.trace,
            lengths=lengths,
            book=book or make_book(args),
            arrivals=arrivals,
            mix=_weights("--mix", args.mix),
            tenants=_weights("--tenants", args.tenants),
            low_share=args.low_share,
            is_recorded=args.arrivals == "recorded",
            seed=args.seed,
        )
    except ValueError as error:
        raise UsageError(one_line(str(error))) from None


def make_setup(args: argparse.Namespace, policy: str) -> Any:
    """Return what serves, under a policy. Raises UsageError naming the option."""
    from niyama.sim.run import Setup
    from niyama.sim.verdicts import CRITERIA

    if args.criterion not in CRITERIA:
        raise UsageError(f"--criterion: {shown(args.criterion)} is unknown; allowed: {listed(CRITERIA)}")
    if args.chunk is not None and args.chunk < 1:
        raise UsageError(f"--chunk: {args.chunk} is not a chunk; allowed: a whole number of tokens >= 1")
    if args.replicas < 1:
        raise UsageError(f"--replicas: {args.replicas} is not a fleet; allowed: a whole number >= 1")
    try:
        setup = Setup(
            policy=policy,
            profile=args.profile,
            chunk=args.chunk,
            criterion=args.criterion,
            limits=limits_of(args),
            num_replicas=args.replicas,
            router=router_of(args),
            is_checked=args.check,
        )
        setup.replica(lambda served: None)
    except ValueError as error:
        raise UsageError(one_line(str(error))) from None
    return setup


def write_json(result: dict[str, Any], target: str) -> None:
    """Write a result to a file, or to stdout for `-`. Raises UsageError if the file cannot be written."""
    text = json.dumps(result, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(one_line(f"--json {target}: cannot write: {reason}")) from None


class Progress:
    """One line on stderr, renewed about once a second on a terminal, every ten elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._is_terminal = sys.stderr.isatty()
        self._began_at = time.monotonic()
        self._due_at = self._began_at + FIRST_WORD_S
        self._is_shown = False

    def show(self, text: str) -> None:
        """Show how far the work is, if it is time to."""
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + (1.0 if self._is_terminal else 10.0)
        line = f"{self._label}: {text}"
        print(
            f"\r\x1b[K{line}" if self._is_terminal else line,
            end="" if self._is_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
        self._is_shown = True

    def end(self) -> None:
        """Clear the line."""
        if self._is_shown and self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    @property
    def elapsed_s(self) -> float:
        """Wall-clock time since the work began, seconds."""
        return time.monotonic() - self._began_at


def _weights(option: str, text: str) -> dict[str, float]:
    """Return the weights in `a=1,b=2`."""
    weights: dict[str, float] = {}
    for part in filter(None, (word.strip() for word in text.split(","))):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"{option}: {shown(part)} is no weight; allowed: NAME=NUMBER,...") from None
    return weights
