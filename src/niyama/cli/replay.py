"""`niyama replay`: a recorded run in virtual time, simulated against measured."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from niyama.cli import UsageError
from niyama.cli.simulation_options import write_json
from niyama.wording import one_line


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `replay`."""
    parser = subparsers.add_parser(
        "replay", help="simulate a recorded run and report the error", description=__doc__
    )
    parser.add_argument("recorded", metavar="RUN", help="a folder with records.jsonl and decisions.jsonl")
    parser.add_argument("--profile", metavar="PROFILE", help="a file of `niyama calibrate`")
    parser.add_argument(
        "--parity",
        action="store_true",
        help="only make the recorded decisions again; RUN may be a decision log",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="simulations to average (default: 3)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the first simulation (default: 0)"
    )
    parser.add_argument(
        "--own-speed",
        action="store_true",
        help="let the machine be as fast, from moment to moment, as the run's own steps were",
    )
    parser.add_argument("--png", metavar="FILE", help="also draw measured and simulated")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON; - for stdout, alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay; returns 0, or 1 if a decision was not made again. Raises UsageError for bad input."""
    from niyama.bench.recordedrun import RunError
    from niyama.cli.checks import check_outputs

    check_outputs(json=args.json, png=args.png)
    if args.png is not None and find_spec("matplotlib") is None:
        raise UsageError("--png: a picture needs matplotlib: pip install 'niyama[bench]'")
    if args.repeats < 1:
        raise UsageError(
            f"--repeats: {args.repeats} is no number of simulations; allowed: a whole number >= 1"
        )
    if not args.parity and args.profile is None:
        raise UsageError("--profile: missing; give a file of `niyama calibrate`, or --parity")
    try:
        return _parity_alone(args) if args.parity else _replay(args)
    except (RunError, ValueError, ImportError) as error:
        raise UsageError(one_line(str(error))) from None
    except OSError as error:
        raise UsageError(one_line(f"{error.filename}: {error.strerror}")) from None


def _parity_alone(args: argparse.Namespace) -> int:
    from niyama.bench.recordedrun import recorded_calls
    from niyama.bench.replayreport import describe_parity

    parity = _parity(recorded_calls(Path(args.recorded)))
    _put_out(args, {"parity": parity}, describe_parity(parity))
    return int(parity["plans_different"] > 0)


def _replay(args: argparse.Namespace) -> int:
    from niyama.bench.recordedrun import load_run
    from niyama.bench.replay import replay
    from niyama.bench.replayreport import describe, describe_parity, draw
    from niyama.latency.profilefile import load_calibration

    calibration = load_calibration(args.profile)
    run = load_run(Path(args.recorded))
    options = {"seed": args.seed, "repeats": args.repeats, "wants_own_speed": args.own_speed}
    replayed = replay(run, calibration, **options)
    parity = _parity(run.calls)
    if args.png is not None:
        draw(replayed, Path(args.png))
    text = describe(replayed.report) + describe_parity(parity)
    _put_out(args, {**replayed.report, "parity": parity}, text)
    return int(parity["plans_different"] > 0)


def _parity(calls: Iterable[dict[str, Any]]) -> dict[str, Any]:
    from niyama.bench.parity import check_parity

    return check_parity(calls).to_mapping()


def _put_out(args: argparse.Namespace, report: dict[str, Any], text: str) -> None:
    if args.json is not None:
        write_json(report, args.json)
    if args.json != "-":
        print(text, end="")
