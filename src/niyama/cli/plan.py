"""`niyama plan`: how many replicas a load needs, shared under each policy and in silos.

The result holds every input; `niyama plan --from plan.json` runs it again.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niyama.cli import UsageError
from niyama.cli.limit_options import limits_json, limits_line
from niyama.cli.run_length import note_lines, run_length
from niyama.cli.saved_plan import check_alone, differences, file_digests, note_given, read_saved, saved_inputs
from niyama.cli.simulation_options import (
    Progress,
    add_jobs_option,
    add_max_late_option,
    add_options,
    check_max_late,
    check_qps,
    chunk_list,
    make_setup,
    make_workload,
    num_jobs,
    write_json,
)
from niyama.wording import one_line

if TYPE_CHECKING:
    from niyama.sim.planning import Fleet
    from niyama.sim.silo import Silo
    from niyama.sim.sizing import SizeProbe
    from niyama.workload.generate import Workload


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `plan`."""
    parser = subparsers.add_parser("plan", help="how many GPUs, shared and in silos", description=__doc__)
    parser.add_argument("--from", dest="saved", metavar="FILE", help="run the plan in a result again")
    parser.add_argument("--out", metavar="DIR", help="write plan.json and plan.png there")
    parser.add_argument("--picture", metavar="FILE", help="write the picture, PNG")
    add_jobs_option(parser)
    note_given(parser)
    add_inputs(parser)
    parser.set_defaults(run=run)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide the result, and `--json`."""
    parser.add_argument("--qps", type=float, metavar="Q", help="requests per second, on average")
    parser.add_argument("--policy", default="niyama", metavar="NAME", help="of the shared fleet")
    parser.add_argument(
        "--policies",
        default="fcfs,edf,paper,niyama",
        metavar="A,B",
        help="shared fleets to show beside it (default: %(default)s)",
    )
    parser.add_argument(
        "--chunks", default="", metavar="N,M", help="also size each fixed-chunk policy with its best of these"
    )
    parser.add_argument("--silo-policy", default="fcfs", metavar="NAME", help="of every silo (default: fcfs)")
    parser.add_argument(
        "--interactive-chunks", default="256", metavar="N,M", help="chunks to choose from (default: 256)"
    )
    parser.add_argument(
        "--batch-chunks", default="2048", metavar="N,M", help="chunks to choose from (default: 2048)"
    )
    parser.add_argument(
        "--silo-per-class", action="store_true", help="a silo for every class, not for every kind of promise"
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=2,
        metavar="N",
        help="replicas of a round-robin fleet to simulate; 0: all (default: %(default)s)",
    )
    add_max_late_option(parser)
    add_options(parser, has_size=False)


def run(args: argparse.Namespace) -> int:
    """Plan; returns 0, or 1 if a saved plan gives another result. Raises UsageError."""
    saved = None
    jobs = num_jobs(args)
    _check_outputs(args)
    if args.saved is not None:
        check_alone(args)
        saved = read_saved(args.saved)
        inputs = vars(saved_inputs(saved, args.saved, add_inputs))
        args = argparse.Namespace(**{**vars(args), **inputs, "json": args.json})
    result = make_plan(args, jobs)
    if saved is not None:
        result["differs"] = differences(saved, result)
    _write(args, result)
    if args.json != "-":
        print(describe(result))
    return 1 if result.get("differs") else 0


def make_plan(args: argparse.Namespace, jobs: int) -> dict[str, Any]:
    """Return the result. Raises UsageError for input that has to change."""
    from niyama import __version__
    from niyama.sim.planning import describe_plan, size_fleets, size_notes

    _check(args)
    workload = make_workload(args)
    length = run_length(args, workload)
    silos, fleets = _fleets(args, workload, length.size(args.qps))
    progress = Progress("plan")

    def show(name: str, probe: SizeProbe) -> None:
        verdict = "in time" if probe.is_met else "too many late"
        of_them = f" ({probe.num_simulated} simulated)" if probe.num_simulated < probe.replicas else ""
        progress.show(f"{name} on {probe.replicas} replicas{of_them}: {verdict}")

    try:
        sized = list(size_fleets(fleets, jobs=jobs, progress=show))
    except ValueError as error:
        raise UsageError(one_line(str(error))) from None
    progress.end()
    num_shared = len(fleets) - len(silos)
    plan = describe_plan(sized[:num_shared], list(zip(silos, sized[num_shared:], strict=True)), args.policy)
    return {
        "qps": args.qps,
        "trace": args.trace,
        "profile": args.profile,
        "criterion": args.criterion,
        "max_late": args.max_late,
        "policy": args.policy,
        **plan,
        "requests": fleets[0].demand.num_requests,
        "limits": limits_json(fleets[0].setups[0].limits),
        "notes": [*size_notes(fleets, sized), *length.notes(workload, args.qps)],
        "inputs": option_values(args),
        "files": file_digests(args),
        "version": __version__,
        "wall_s": round(progress.elapsed_s, 3),
    }


def option_values(args: argparse.Namespace) -> dict[str, Any]:
    """Return every option that decides the result, by its name on the command line."""
    parser = argparse.ArgumentParser(add_help=False)
    add_inputs(parser)
    names = {action.dest: action.option_strings[0] for action in parser._actions if action.dest != "json"}
    return {option: getattr(args, dest) for dest, option in names.items()}


def _fleets(
    args: argparse.Namespace, workload: Workload, num_requests: int
) -> tuple[list[Silo], list[Fleet]]:
    """Return the silos, and all that is to be sized: the shared fleets, then the silos."""
    from dataclasses import replace

    from niyama.scheduling.registry import has_fixed_chunk
    from niyama.sim.planning import Fleet
    from niyama.sim.silo import make_silos
    from niyama.sim.sizing import Demand

    every = Demand(workload=workload, qps=args.qps, num_requests=num_requests)
    common: dict[str, Any] = {"max_late": args.max_late, "sample": args.sample}
    fleets: list[Fleet] = []
    chunks = chunk_list("--chunks", args.chunks)
    names = [name.strip() for name in args.policies.split(",") if name.strip()]
    for name in dict.fromkeys([*names, args.policy]):
        setup = make_setup(args, name)
        fleets.append(Fleet(name=name, setups=(setup,), demand=every, **common))
        if chunks and has_fixed_chunk(name):
            setups = tuple(replace(setup, chunk=chunk) for chunk in chunks)
            fleets.append(Fleet(name=f"{name}@best", setups=setups, demand=every, **common))
    base = make_setup(args, args.silo_policy)
    silos = make_silos(
        workload,
        base,
        policy=args.silo_policy,
        is_per_class=args.silo_per_class,
        classes=every.occurring,
    )
    for silo in silos:
        is_batch = not workload.book.classes[silo.classes[0]].slo.is_interactive
        option = "--batch-chunks" if is_batch else "--interactive-chunks"
        sizes = chunk_list(option, args.batch_chunks if is_batch else args.interactive_chunks)
        setups = tuple(replace(silo.setup, chunk=chunk) for chunk in sizes) or (silo.setup,)
        if not has_fixed_chunk(args.silo_policy):
            setups = (replace(silo.setup, chunk=None),)
        demand = replace(every, classes=silo.classes)
        fleets.append(Fleet(name=f"silo {silo.name}", setups=setups, demand=demand, **common))
    return silos, fleets


def describe(result: dict[str, Any]) -> str:
    """Return a plan as a table for people."""
    lines = [
        f"{result['qps']:g} requests/s of {result['trace']}, at most {result['max_late']:.2%} of a class "
        f"late by criterion {result['criterion']}",
        limits_line(result["limits"]),
        "",
        f"{'FLEET':<34}{'REPLICAS':>9}{'GPUS':>6}",
    ]
    rows = [(f"shared, {name}", entry) for name, entry in result["policies"].items()]
    rows += [(f"silo {' + '.join(entry['classes'])}", entry) for entry in result["silo"]["silos"]]
    for name, entry in [*rows, ("silos, all", {**result["silo"], "chunk": None})]:
        chunk = f"  chunk {entry['chunk']}" if entry["chunk"] else ""
        lines.append(f"{name:<34}{_count(entry['replicas']):>9}{_count(entry['gpus']):>6}{chunk}")
    if result["saving"] is not None:
        lines += ["", f"shared under {result['policy']} saves {result['saving']:.1%} of the silos' replicas"]
    if "differs" in result:
        same = "the same result as the saved plan"
        changed = f"NOT the saved result: {', '.join(result['differs'])} changed"
        lines += ["", changed if result["differs"] else same]
    return "\n".join([*lines, *note_lines(result)])


def _count(count: int | None) -> str:
    return "-" if count is None else str(count)


def _write(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write what was asked for. Raises UsageError if it cannot be written."""
    pictures = [] if args.picture is None else [Path(args.picture)]
    if args.out is not None:
        folder = Path(args.out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(one_line(f"--out {args.out}: cannot make it: {error.strerror}")) from None
        write_json(result, str(folder / "plan.json"))
        pictures.append(folder / "plan.png")
    if args.json is not None:
        write_json(result, args.json)
    for path in pictures:
        from niyama.bench.plan_picture import draw_plan

        try:
            draw_plan(result, path)
        except (ImportError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(one_line(f"--picture {path}: cannot write: {reason}")) from None


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse what could not be written at the end. Raises UsageError."""
    from niyama.cli.checks import check_folder, check_outputs

    check_outputs(json=args.json, picture=args.picture)
    if args.out is not None:
        check_folder(args.out, ("plan.json", "plan.png"), "--out")
    for option, path in (("--out", args.out), ("--picture", args.picture)):
        if path is not None and find_spec("matplotlib") is None:
            raise UsageError(f"{option}: a picture needs matplotlib: pip install 'niyama[bench]'")


def _check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing. Raises UsageError."""
    if args.qps is None:
        raise UsageError("--qps: none is given; allowed: requests per second > 0, or --from FILE")
    check_qps(args)
    if args.sample < 0:
        raise UsageError(f"--sample: {args.sample} is not allowed; give a whole number >= 0")
    check_max_late(args)
