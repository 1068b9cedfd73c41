"""`niyama capacity`: the highest load at which every class is served in time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from niyama.cli import UsageError
from niyama.cli.simulation_options import (
    Progress,
    add_jobs_option,
    add_max_late_option,
    add_options,
    check_max_late,
    chunk_list,
    duration_s,
    make_setup,
    make_workload,
    num_jobs,
    num_requests,
    write_json,
)

if TYPE_CHECKING:
    from niyama.sim.capacity import Probe
    from niyama.sim.run import Setup

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
    from niyama.latency import get_profile
    from niyama.sim.bounds import bounds
    from niyama.sim.capacity import Question, capacities

    _check(args)
    check_outputs(json=args.json)
    jobs = num_jobs(args)
    candidates = _candidates(args)
    workload = make_workload(args)
    setups = [_with_chunk(make_setup(args, policy), chunk) for policy, chunk in candidates]
    bound = bounds(workload, get_profile(args.profile), setups[0].limits)
    size = None if args.requests is None else num_requests(args, workload.book, 1.0)
    length_s = None if size is not None else duration_s(args, workload.book)
    questions = [
        Question(
            setup=setup, workload=workload, duration_s=length_s, num_requests=size, max_late=args.max_late
        )
        for setup in setups
    ]
    progress = Progress("capacity")

    def show(found: Probe) -> None:
        verdict = "in time" if found.is_met else f"{max(found.late_share.values()):.1%} of a class late"
        progress.show(f"{found.policy} at {found.qps:.2f} requests/s: {verdict}")

    fleet_qps = bound.qps * args.replicas
    try:
        searches = capacities(questions, fleet_qps, resolution=args.resolution, jobs=jobs, progress=show)
    except ValueError as error:
        raise UsageError(str(error)) from None
    progress.end()
    found = [search.low * fleet_qps / args.resolution for search in searches]
    capacity_qps, chunks = _best(candidates, found)
    result = {
        "criterion": args.criterion,
        "trace": args.trace,
        "max_late": args.max_late,
        "capacity_qps": capacity_qps,
        "chunk": chunks,
        "bound_qps": fleet_qps,
        "bound_tbt_qps": bound.tbt_qps * args.replicas,
        "probes": [
            {**probe._asdict(), "chunk": chunk}
            for (_, chunk), search in zip(candidates, searches, strict=True)
            for probe in search.probes
        ],
    }
    if args.json is not None:
        write_json(result, args.json)
    if args.json != "-":
        print(describe(result))
    return 0


def _candidates(args: argparse.Namespace) -> list[tuple[str, int | None]]:
    """Return who is searched for: every policy with its chunk, None if it has no fixed one."""
    from niyama.scheduling.baselines import DEFAULT_CHUNK
    from niyama.sim.run import has_fixed_chunk

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
    candidates: Sequence[tuple[str, int | None]], found: Sequence[float]
) -> tuple[dict[str, float], dict[str, int | None]]:
    """Return the capacity and the chunk by policy: its own and, if others were tried, the best one."""
    capacity_qps: dict[str, float] = {}
    chunks: dict[str, int | None] = {}
    for (policy, chunk), qps in zip(candidates, found, strict=True):
        best = f"{policy}@best"
        if policy not in capacity_qps:
            capacity_qps[policy], chunks[policy] = qps, chunk
        else:
            if best not in capacity_qps:
                capacity_qps[best], chunks[best] = capacity_qps[policy], chunks[policy]
            if qps > capacity_qps[best]:
                capacity_qps[best], chunks[best] = qps, chunk
    return capacity_qps, chunks


def describe(result: dict[str, Any]) -> str:
    """Return the capacities as a table for people."""
    bound = result["bound_qps"]
    lines = [f"{'POLICY':<12}{'REQUESTS/S':>12}{'OF BOUND':>10}"]
    rows = [*result["capacity_qps"].items(), ("bound, TBT", result["bound_tbt_qps"]), ("bound", bound)]
    for name, qps in rows:
        chunk = result["chunk"].get(name)
        note = f"  chunk {chunk}" if chunk is not None else ""
        lines.append(f"{name:<12}{qps:>12.2f}{qps / bound:>10.1%}{note}")
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing. Raises UsageError."""
    check_max_late(args)
    if args.resolution < 1:
        raise UsageError(f"--resolution: {args.resolution} is not allowed; give a whole number >= 1")
