"""`niyama calibrate`: fit a latency profile to recorded runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from niyama.cli import UsageError
from niyama.cli.simulation_options import write_json
from niyama.wording import one_line


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `calibrate`."""
    parser = subparsers.add_parser(
        "calibrate", help="fit a latency profile to recorded runs", description=__doc__
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a folder with records.jsonl and decisions.jsonl, a decision log alone, or a step log",
    )
    parser.add_argument("--out", required=True, metavar="PROFILE", help="the profile file to write")
    parser.add_argument("--name", metavar="NAME", help="name in reports (default: that of the file)")
    parser.add_argument("--json", metavar="FILE", help="also write the errors as JSON; - for stdout, alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit and write a profile; returns 0. Raises UsageError for input that has to change."""
    from niyama.bench.calibrate import calibrate, describe, load_source
    from niyama.bench.recordedrun import RunError
    from niyama.cli.checks import check_outputs

    check_outputs(out=args.out, json=args.json)
    target = Path(args.out)
    try:
        sources = [load_source(Path(path)) for path in args.runs]
        calibration = calibrate(sources, args.name or target.stem)
    except (RunError, ValueError) as error:
        raise UsageError(one_line(str(error))) from None
    try:
        target.write_text(calibration.to_json(), encoding="utf-8")
    except OSError as error:
        raise UsageError(one_line(f"--out: {args.out}: cannot be written: {error.strerror}")) from None
    if args.json is not None:
        sources_used = list(calibration.sources)
        write_json({"profile": str(target), "sources": sources_used, "errors": calibration.errors}, args.json)
    if args.json != "-":
        print(describe(calibration), end="")
    return 0
