"""`niyama reproduce`: the paper's figures, and its numbers beside ours."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from niyama.cli import UsageError
from niyama.cli.simulation_options import Progress, num_jobs, write_json
from niyama.wording import one_line, shown


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `reproduce`."""
    parser = subparsers.add_parser("reproduce", help="the paper's figures, simulated", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures; all if none is given")
    parser.add_argument("--list", action="store_true", help="print the figures and stop")
    parser.add_argument("--out", metavar="DIR", help="for the pictures, results.md and results.json")
    parser.add_argument("--traces", metavar="DIR", help="trace files; presets stand for those it has not")
    parser.add_argument("--quick", action="store_true", help="short and coarse runs")
    parser.add_argument(
        "--jobs", default="all", metavar="N", help="processes, or all: one per core (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write results and times as JSON; - for stdout, alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reproduce; returns 0, or 1 if a process was killed. Raises UsageError for input that has to change."""
    from concurrent.futures.process import BrokenProcessPool

    from niyama.bench.reproduce.registry import FIGURES
    from niyama.bench.reproduce.run import reproduce

    if args.list:
        print("\n".join(f"{figure.name:<10} {figure.title}" for figure in FIGURES))
        return 0
    order = _order(args)
    progress = Progress("reproduce")

    def show(done: int, known: int) -> None:
        progress.show(f"{done} of {known} simulations, {progress.elapsed_s:.0f} s")

    try:
        result, cpu_s = reproduce(order, show)
    except BrokenProcessPool:
        print(
            "niyama: error: a process was killed, perhaps for want of memory; try --jobs 1", file=sys.stderr
        )
        return 1
    except OSError as error:
        raise UsageError(one_line(f"--out: {shown(args.out)}: {error}")) from None
    except (ImportError, ValueError) as error:
        raise UsageError(one_line(str(error))) from None
    finally:
        progress.end()
    wall_s = progress.elapsed_s
    times = {
        "wall_s": round(wall_s, 1),
        "cpu_s": {name: round(cost_s, 1) for name, cost_s in cpu_s.items()},
        "jobs": order.jobs,
    }
    if args.json is not None:
        write_json({**result, **times}, args.json)
    if args.json != "-":
        print(describe(result, times, order.out))
    return 0


def describe(result: dict[str, Any], times: dict[str, Any], out: Path) -> str:
    """Return what was found, for people."""
    lines = []
    for name, part in result["figures"].items():
        lines.append(f"{name}: {part['title']} ({times['cpu_s'][name]:.1f} s of processor time)")
        for found in part["findings"]:
            lines.append(f"  {found['claim']}: paper {found['paper']}; here {found['ours']}")
    total_s = sum(times["cpu_s"].values())
    lines += ["", f"{total_s:.0f} s of processor time, {times['wall_s']:.0f} s; see {out / 'results.md'}"]
    return "\n".join(lines)


def _order(args: argparse.Namespace) -> Any:
    """Return what to reproduce. Raises UsageError naming the option."""
    from niyama.bench.reproduce.cases import find_traces
    from niyama.bench.reproduce.registry import choose
    from niyama.bench.reproduce.run import Order
    from niyama.bench.reproduce.scale import FULL, QUICK

    try:
        figures = choose(args.names)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.out is None:
        raise UsageError("--out: none is given; allowed: a folder, made if needed")
    jobs = num_jobs(args)
    traces = find_traces(_folder(args.traces))
    _check_traces(traces[name] for name in sorted({name for figure in figures for name in figure.traces}))
    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib: pip install 'niyama[bench]'")
    if args.json not in (None, "-"):
        _check_writable("--json", [Path(args.json)])
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(one_line(f"--out: {shown(args.out)}: cannot make it: {error.strerror}")) from None
    _check_writable("--out", [out / f"{figure.name}.png" for figure in figures])
    _check_writable("--out", [out / "results.json", out / "results.md"])
    scale = QUICK if args.quick else FULL
    return Order(figures=figures, out=out, traces=traces, scale=scale, jobs=jobs, seed=args.seed)


def _folder(text: str | None) -> Path | None:
    """Return the folder of traces. Raises UsageError if it holds none of them."""
    from niyama.bench.reproduce.cases import FILES
    from niyama.wording import listed

    if text is None:
        return None
    if not any((Path(text) / file).is_file() for _, file in FILES.values()):
        files = listed(file for _, file in FILES.values())
        raise UsageError(f"--traces: {shown(text)} has none of the traces; allowed: a folder with {files}")
    return Path(text)


def _check_traces(traces: Iterable[Any]) -> None:
    """Read the trace files once. Raises UsageError naming file and line."""
    from niyama.workload.generate import load_lengths

    for trace in traces:
        try:
            load_lengths(trace.source)
        except (OSError, ValueError) as error:
            raise UsageError(one_line(f"--traces: {error}")) from None


def _check_writable(option: str, paths: Iterable[Path]) -> None:
    """Look whether files can be written, before hours of work. Raises UsageError naming the first."""
    for path in paths:
        if path.is_dir():
            reason = "is a folder"
        elif not path.parent.is_dir():
            reason = "its folder does not exist"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            reason = "no permission"
        else:
            continue
        raise UsageError(
            f"{option}: cannot write {shown(str(path))}: {reason}; allowed: a file that can be made"
        )
