"""`niyama soak`: load a server for hours with clients that leave, and account for everything."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from niyama.cli import UsageError
from niyama.cli.simulation_options import Progress, write_json


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `soak`."""
    parser = subparsers.add_parser(
        "soak", help="test a server of your own for hours", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--minutes", type=float, default=120.0, metavar="M", help="how long (default: %(default)g)"
    )
    parser.add_argument("--model", metavar="M", help="what to serve (default: the demo model)")
    parser.add_argument(
        "--qps",
        default="auto",
        metavar="Q",
        help="clients per second outside the bursts (default: auto, 0.6 of what the server sustains)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", metavar="FILE", help="keep what the server prints in FILE")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Soak; returns 0 if nothing is wrong, else 1. Raises UsageError for input that has to change."""
    from niyama.cli import checks, serve

    if not 0 < args.minutes < math.inf:
        raise UsageError(f"--minutes: {args.minutes:g} is no time; allowed: minutes > 0")
    qps = _qps(args.qps)
    if args.model is not None:
        checks.check_model(args.model)
    if args.log is not None:
        checks.check_writable(args.log, "--log")
    if args.json not in (None, "-"):
        checks.check_writable(args.json, "--json")
    if find_spec("aiohttp") is None:
        raise UsageError("soak: aiohttp is not installed; install niyama[bench]")
    checks.check_vllm(serve.vllm_version(), allow_untested=False)
    return _soak(args, qps)


def _soak(args: argparse.Namespace, qps: float | None) -> int:
    from niyama.bench.soak import Soak, soak
    from niyama.bench.soakreport import describe
    from niyama.bench.soakserver import SoakServerError

    log = Path(args.log or mkstemp(prefix="niyama-soak-", suffix=".log")[1])
    task = Soak(minutes=args.minutes, model=args.model, qps=qps, seed=args.seed, log=log)
    progress = Progress("soak")
    # A soak that is told to end takes its server along.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        result = soak(task, progress.show)
    except SoakServerError as error:
        print(f"niyama: error: {error} (its log: {log})", file=sys.stderr)
        return 1
    finally:
        progress.end()
        signal.signal(signal.SIGTERM, previous)
    if args.json is not None:
        write_json(result, args.json)
    if args.json != "-":
        print(describe(result))
    if result["problems"]:
        print(f"niyama: the server's log is {log}", file=sys.stderr)
        return 1
    if args.log is None:
        log.unlink()
    return 0


def _qps(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        qps = float(text)
    except ValueError:
        qps = math.nan
    if not 0 < qps < math.inf:
        raise UsageError(f"--qps: {text} is not a rate; allowed: auto, or clients per second > 0")
    return qps
