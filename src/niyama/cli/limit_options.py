"""What a simulated replica can hold: its options, and how a result says it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from niyama.sim.live import ReplicaLimits

_NAMES = ("num_kv_tokens", "max_num_seqs", "max_num_batched_tokens")
"""What a result says of a replica, and a profile file of the server that it was taken from."""


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a replica can hold."""
    add = parser.add_argument
    add("--kv-tokens", type=int, metavar="N", help="KV cache of a replica (default: what the profile leaves)")
    add(
        "--max-num-seqs",
        type=int,
        metavar="N",
        help="running requests at most (default: the profile's, or 256)",
    )
    add(
        "--max-num-batched-tokens",
        type=int,
        metavar="N",
        help="tokens of a step at most (default: the profile's, or 8192)",
    )
    add("--role", default="both", metavar="ROLE", help="both, prefill or decode")


def limits_of(args: argparse.Namespace) -> ReplicaLimits:
    """Return what a replica can hold: as given, else as the profile says.

    Raises:
        ValueError: a limit is none that an engine has, or the profile is none; names it.
    """
    from niyama.latency import kv_tokens, server_limits
    from niyama.sim.live import ReplicaLimits

    given = zip(_NAMES, (args.kv_tokens, args.max_num_seqs, args.max_num_batched_tokens), strict=True)
    limits = {**server_limits(args.profile), **{name: n for name, n in given if n is not None}}
    if "num_kv_tokens" not in limits:
        limits["num_kv_tokens"] = kv_tokens(args.profile)
    return ReplicaLimits(**limits, role=args.role)


def limits_json(limits: ReplicaLimits) -> dict[str, int]:
    """Return what a replica can hold, for the JSON."""
    return {name: getattr(limits, name) for name in _NAMES}


def limits_line(limits: Mapping[str, int]) -> str:
    """Return in words what a replica can hold, by the JSON's `limits`."""
    return (
        f"a replica holds {limits['num_kv_tokens']:,} tokens of KV and {limits['max_num_seqs']:,} running "
        f"requests; a step has at most {limits['max_num_batched_tokens']:,} tokens"
    )
