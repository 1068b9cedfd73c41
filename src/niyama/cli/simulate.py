"""`niyama simulate`: serve a workload in virtual time and report who was late."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from niyama.cli import UsageError
from niyama.cli.limit_options import limits_json, limits_line
from niyama.cli.router_options import fleet_json, fleet_lines
from niyama.cli.run_length import note_lines, run_length
from niyama.cli.simulation_options import (
    Progress,
    add_options,
    check_qps,
    make_setup,
    make_workload,
    write_json,
)

if TYPE_CHECKING:
    from niyama.sim.live import ReplicaLimits
    from niyama.sim.verdicts import Served


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `simulate`."""
    parser = subparsers.add_parser("simulate", help="serve a workload in virtual time", description=__doc__)
    parser.add_argument("--policy", default="niyama", metavar="NAME", help="who schedules (default: niyama)")
    parser.add_argument(
        "--qps", type=float, required=True, metavar="Q", help="requests per second, on average"
    )
    add_options(parser)
    parser.add_argument(
        "--bound", action="store_true", help="show how many requests any policy would be late for at least"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate; returns 0. Raises UsageError for input that has to change."""
    from niyama.cli.checks import check_outputs
    from niyama.sim.report import report
    from niyama.sim.run import simulate

    check_qps(args)
    check_outputs(json=args.json)
    setup, workload = make_setup(args, args.policy), make_workload(args)
    length = run_length(args, workload)
    total = length.size(args.qps)
    progress = Progress("simulate")

    def show(num_arrived: int, now_s: float) -> None:
        speed = now_s / max(progress.elapsed_s, 1e-9)
        progress.show(f"{num_arrived:,} of {total:,} requests, {now_s / 3600:.2f} h, {speed:,.0f}x real time")

    try:
        done = simulate(setup, workload.requests(args.qps, total), progress=show)
    except ValueError as error:
        raise UsageError(str(error)) from None
    wall_s = progress.elapsed_s
    progress.end()
    result = report(done, policy=args.policy, qps=args.qps, criterion=args.criterion)
    if args.bound:
        result["late_share_bound"] = _bound(args, done.served, setup.limits)
    result["fleet"] = fleet_json(args)
    result["limits"] = limits_json(setup.limits)
    result["notes"] = length.notes(workload, args.qps)
    result["wall_s"] = round(wall_s, 3)
    if args.json is not None:
        write_json(result, args.json)
    if args.json != "-":
        print(describe(result))
    return 0


def _bound(args: argparse.Namespace, served: Sequence[Served], limits: ReplicaLimits) -> dict[str, float]:
    """Return the share of these requests that any policy would be late for at least, by name."""
    from niyama.latency import get_profile
    from niyama.sim.lateness import late_share_bound

    profile = get_profile(args.profile)
    return late_share_bound(served, profile, limits, criterion=args.criterion, num_replicas=args.replicas)


def describe(result: dict[str, Any]) -> str:
    """Return a result as a table for people."""
    hours, wall_s = result["simulated_s"] / 3600, result["wall_s"]
    speed = result["simulated_s"] / max(wall_s, 1e-3)
    by_criterion = result["late_share_by_criterion"]
    lines = [
        f"{result['policy']} at {result['qps']:g} requests/s: {result['requests']:,} requests, "
        f"{result['steps']:,} steps, {hours:.2f} h in {wall_s:.1f} s ({speed:,.0f}x)",
        f"goodput {result['goodput_rps']:.3f}/s by criterion {result['criterion']}, "
        f"relegated {result['relegated_share']:.2%}, preemptions {result['preemptions']}",
        *fleet_lines(result["fleet"]),
        limits_line(result["limits"]),
        "",
        f"{'LATE, by criterion':<20}"
        + "".join(f"{name:>9}" for name in by_criterion)
        + f"{'TTFT p50':>11}{'p99':>10}{'TBT p99':>10}{'TTLT p99':>11}",
    ]
    for name in result["late_share"]:
        line = f"{name:<20}" + "".join(f"{share[name]:>9.2%}" for share in by_criterion.values())
        if name in result["ttft_s"]:
            ttft, tbt, ttlt = (result[metric][name] for metric in ("ttft_s", "tbt_s", "ttlt_s"))
            line += f"{ttft['p50']:>9.2f} s{ttft['p99']:>8.1f} s"
            line += f"{_milliseconds(tbt['p99']):>10}{ttlt['p99']:>9.1f} s"
        lines.append(line)
    if "late_share_bound" in result:
        lines += ["", _describe_bound(result)]
    return "\n".join([*lines, *note_lines(result)])


def _describe_bound(result: dict[str, Any]) -> str:
    bound, late = result["late_share_bound"], result["late_share"]
    of_importance = result["late_share_by_importance"]
    words = [f"{bound['all']:.2%} of all (here {late['all']:.2%}, {late['all'] - bound['all']:.2%} above)"]
    if len(of_importance) > 1:
        words += [f"{bound[name]:.2%} of {name} (here {share:.2%})" for name, share in of_importance.items()]
    return "late under any policy, at least: " + ", ".join(words)


def _milliseconds(value_s: float | None) -> str:
    return "-" if value_s is None else f"{1000 * value_s:.0f} ms"
