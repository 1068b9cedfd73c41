"""The router of a simulated fleet, from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from niyama.cli import UsageError
from niyama.durations import parse_duration_s
from niyama.wording import listed, shown

DEFAULT_ROUTER = "round-robin"


def add_router_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who gets a request."""
    parser.add_argument(
        "--router",
        default=DEFAULT_ROUTER,
        metavar="NAME",
        help="round-robin, least-loaded, least-work, slack-aware (default: %(default)s)",
    )
    parser.add_argument(
        "--report-every",
        default="100ms",
        metavar="T",
        help="how often least-work and slack-aware hear of the replicas (default: %(default)s)",
    )


def fleet_json(args: argparse.Namespace) -> dict[str, Any]:
    """Return how many replicas there are and who gets a request, for the JSON."""
    return {"replicas": args.replicas, "router": args.router}


def fleet_lines(fleet: Mapping[str, Any]) -> list[str]:
    """Return the same as lines of a text; of a single replica only that a router has nothing to choose."""
    if fleet["replicas"] == 1:
        chosen = fleet["router"]
        return [] if chosen == DEFAULT_ROUTER else [f"one replica: {chosen} has nothing to choose"]
    return [f"{fleet['replicas']} replicas behind {fleet['router']}; requests/s are of all of them"]


def router_of(args: argparse.Namespace) -> Any:
    """Return the router. Raises UsageError naming the option."""
    from niyama.sim.fleet import ROUTERS, make_router

    if args.router not in ROUTERS:
        raise UsageError(f"--router: {shown(args.router)} is unknown; allowed: {listed(ROUTERS)}")
    try:
        return make_router(args.router, parse_duration_s(args.report_every))
    except ValueError as error:
        raise UsageError(f"--report-every: {error}") from None
