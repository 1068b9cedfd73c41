"""Which replica of a fleet a request goes to. Adding a router is a function and a line in ROUTERS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niyama.scheduling.policy import Request
from niyama.sim.replica import Replica

Router = Callable[[Request, int, Sequence[Replica]], int]
"""Returns the index of the replica for a request, the n-th that arrives."""


def round_robin(request: Request, number: int, replicas: Sequence[Replica]) -> int:
    """Each replica in turn."""
    return number % len(replicas)


def least_loaded(request: Request, number: int, replicas: Sequence[Replica]) -> int:
    """The replica with the fewest requests; the first of them. O(replicas)."""
    return min(range(len(replicas)), key=lambda index: len(replicas[index].live))


ROUTERS: dict[str, Router] = {"round-robin": round_robin, "least-loaded": least_loaded}
