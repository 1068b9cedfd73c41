"""`niyama capacity`: the highest load at which every class is served in time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from niyama.cli import UsageError
from niyama.cli.limit_options import limits_json, limits_line
from niyama.cli.router_options import fleet_json, fleet_lines
from niyama.cli.run_length import RunLength, note_lines, run_length
from niyama.cli.simulation_options import (
    Progress,
    add_jobs_option,
    add_max_late_option,
    add_options,
    check_max_late,
    chunk_list,
    make_setup,
    make_workload,
    num_jobs,
    write_json,
)

if TYPE_CHECKING:
    from niyama.sim.capacity import Probe, Search
    from niyama.sim.run import Setup
    from niyama.workload.generate import Workload

DEFAULT_POLICIES = "fcfs,edf,paper,niyama"


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `capacity`."""
    parser = subparsers.add_parser("capacity", help="find the highest load in time", description=__doc__)
    parser.add_argument(
        "--policies",
        "--policy",
        default=DEFAULT_POLICIES,
        metavar="A,B",
        help="who schedules (default: %(default)s)",
    )
    add_max_late_option(parser)
    parser.add_argument(
        "--resolution",
        type=int,
        default=100,
        metavar="N",
        help="the answer is a multiple of 1/N of the bound (default: %(default)s)",
    )
    parser.add_argument(
        "--chunks",
        default="",
        metavar="N,M",
        help="also find the best of these chunks for each policy with a fixed one, as POLICY@best",
    )
    add_jobs_option(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search; returns 0. Raises UsageError for input that has to change."""
    from niyama.cli.checks import check_outputs

    _check(args)
    check_outputs(json=args.json)
    result = find_capacities(args)
    if args.json is not None:
        write_json(result, args.json)
    if args.json != "-":
        print(describe(result))
    return 0


def find_capacities(args: argparse.Namespace) -> dict[str, Any]:
    """Return the result. Raises UsageError for input that has to change."""
    from niyama.latency import get_profile
    from niyama.sim.bounds import bounds

    jobs = num_jobs(args)
    candidates = _candidates(args)
    workload = make_workload(args)
    setups = [_with_chunk(make_setup(args, policy), chunk) for policy, chunk in candidates]
    bound = bounds(workload, get_profile(args.profile), setups[0].limits)
    length = run_length(args, workload)
    fleet_qps = bound.qps * args.replicas
    searches = _search(args, setups, workload, length, fleet_qps, jobs)
    points, chunks = _best(candidates, [search.low for search in searches])
    capacity_qps = {name: point * fleet_qps / args.resolution for name, point in points.items()}
    capped = [name for name, point in points.items() if point == args.resolution]
    return {
        "criterion": args.criterion,
        "trace": args.trace,
        "max_late": args.max_late,
        "fleet": fleet_json(args),
        "limits": limits_json(setups[0].limits),
        "capacity_qps": capacity_qps,
        "capped": capped,
        "chunk": chunks,
        "bound_qps": fleet_qps,
        "bound_tbt_qps": bound.tbt_qps * args.replicas,
        # The higher the load, the sooner a given number of requests is there.
        "notes": _cap_notes(capped) + length.notes(workload, max(capacity_qps.values()) or fleet_qps),
        "probes": [
            {**probe._asdict(), "chunk": chunk}
            for (_, chunk), search in zip(candidates, searches, strict=True)
            for probe in search.probes
        ],
    }


def _search(
    args: argparse.Namespace,
    setups: Sequence[Setup],
    workload: Workload,
    length: RunLength,
    fleet_qps: float,
    jobs: int,
) -> list[Search]:
    """Return the finished search of every setup. Raises UsageError for a request that never fits."""
    from niyama.sim.capacity import Question, capacities

    questions = [
        Question(
            setup=setup,
            workload=workload,
            duration_s=length.duration_s,
            num_requests=length.num_requests,
            max_late=args.max_late,
        )
        for setup in setups
    ]
    progress = Progress("capacity")

    def show(found: Probe) -> None:
        verdict = "in time" if found.is_met else f"{max(found.late_share.values()):.2%} of a class late"
        progress.show(f"{found.policy} at {found.qps:.2f} requests/s: {verdict}")

    try:
        searches = capacities(questions, fleet_qps, resolution=args.resolution, jobs=jobs, progress=show)
    except ValueError as error:
        raise UsageError(str(error)) from None
    progress.end()
    return searches


def _cap_notes(capped: Sequence[str]) -> list[str]:
    """Return what a search that ended at its ceiling means, if any did."""
    if not capped:
        return []
    return [
        f"no load above the bound was tried, and at the bound every class is in time: {', '.join(capped)}"
    ]


def _candidates(args: argparse.Namespace) -> list[tuple[str, int | None]]:
    """Return who is searched for: every policy with its chunk, None if it has no fixed one."""
    from niyama.scheduling.baselines import DEFAULT_CHUNK
    from niyama.scheduling.registry import has_fixed_chunk

    chunks = chunk_list("--chunks", args.chunks)
    candidates: list[tuple[str, int | None]] = []
    for policy in dict.fromkeys(name.strip() for name in args.policies.split(",")):
        if not has_fixed_chunk(policy):
            candidates.append((policy, None))
            continue
        own = DEFAULT_CHUNK if args.chunk is None else args.chunk
        candidates += [(policy, chunk) for chunk in dict.fromkeys([own, *chunks])]
    return candidates


def _with_chunk(setup: Setup, chunk: int | None) -> Setup:
    return setup if chunk is None else replace(setup, chunk=chunk)


def _best(
    candidates: Sequence[tuple[str, int | None]], found: Sequence[int]
) -> tuple[dict[str, int], dict[str, int | None]]:
    """Return the highest load in time, a point of the grid, and the chunk, by policy.

    Its own chunk's and, if others were tried, that of the best one.
    """
    points: dict[str, int] = {}
    chunks: dict[str, int | None] = {}
    for (policy, chunk), point in zip(candidates, found, strict=True):
        best = f"{policy}@best"
        if policy not in points:
            points[policy], chunks[policy] = point, chunk
        else:
            if best not in points:
                points[best], chunks[best] = points[policy], chunks[policy]
            if point > points[best]:
                points[best], chunks[best] = point, chunk
    return points, chunks


def describe(result: dict[str, Any]) -> str:
    """Return the capacities as a table for people; `>=` before one where the search hit its ceiling."""
    bound = result["bound_qps"]
    lines = [*fleet_lines(result["fleet"]), limits_line(result["limits"])]
    lines += ["", f"{'POLICY':<12}{'REQUESTS/S':>12}{'OF BOUND':>10}"]
    rows = [*result["capacity_qps"].items(), ("bound, TBT", result["bound_tbt_qps"]), ("bound", bound)]
    for name, qps in rows:
        chunk = result["chunk"].get(name)
        note = f"  chunk {chunk}" if chunk is not None else ""
        text = f"{'>= ' if name in result['capped'] else ''}{qps:.2f}"
        lines.append(f"{name:<12}{text:>12}{qps / bound:>10.1%}{note}")
    return "\n".join([*lines, *note_lines(result)])


def _check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing. Raises UsageError."""
    check_max_late(args)
    if args.resolution < 1:
        raise UsageError(f"--resolution: {args.resolution} is not allowed; give a whole number >= 1")
