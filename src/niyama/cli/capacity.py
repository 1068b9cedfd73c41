"""`niyama capacity`: the highest load at which every class is served in time."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from niyama.cli import UsageError
from niyama.cli.simulation_options import (
    Progress,
    add_options,
    duration_s,
    make_setup,
    make_workload,
    num_requests,
    write_json,
)

if TYPE_CHECKING:
    from niyama.sim.capacity import Probe

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
    parser.add_argument(
        "--max-late",
        type=float,
        default=0.01,
        metavar="S",
        help="share of a class that may be late (default: %(default)s)",
    )
    parser.add_argument(
        "--resolution",
        type=int,
        default=100,
        metavar="N",
        help="the answer is a multiple of 1/N of the bound (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search; returns 0. Raises UsageError for input that has to change."""
    from niyama.latency import get_profile
    from niyama.sim.bounds import bounds
    from niyama.sim.capacity import Question, capacities

    _check(args)
    policies = [name.strip() for name in args.policies.split(",")]
    workload = make_workload(args)
    setups = [make_setup(args, policy) for policy in policies]
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
        searches = capacities(questions, fleet_qps, resolution=args.resolution, jobs=args.jobs, progress=show)
    except ValueError as error:
        raise UsageError(str(error)) from None
    progress.end()
    result = {
        "criterion": args.criterion,
        "trace": args.trace,
        "max_late": args.max_late,
        "capacity_qps": {
            policy: search.low * fleet_qps / args.resolution
            for policy, search in zip(policies, searches, strict=True)
        },
        "bound_qps": fleet_qps,
        "bound_tbt_qps": bound.tbt_qps * args.replicas,
        "probes": [found._asdict() for search in searches for found in search.probes],
    }
    if args.json is not None:
        write_json(result, args.json)
    if args.json != "-":
        print(describe(result))
    return 0


def describe(result: dict[str, Any]) -> str:
    """Return the capacities as a table for people."""
    bound = result["bound_qps"]
    lines = [f"{'POLICY':<12}{'REQUESTS/S':>12}{'OF BOUND':>10}"]
    rows = [*result["capacity_qps"].items(), ("bound, TBT", result["bound_tbt_qps"]), ("bound", bound)]
    lines += [f"{name:<12}{qps:>12.2f}{qps / bound:>10.1%}" for name, qps in rows]
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing. Raises UsageError."""
    if not 0 <= args.max_late < 1:
        raise UsageError(f"--max-late: {args.max_late:g} is no share; allowed: 0 to below 1")
    for option, value in (("--jobs", args.jobs), ("--resolution", args.resolution)):
        if value < 1:
            raise UsageError(f"{option}: {value} is not allowed; give a whole number >= 1")
