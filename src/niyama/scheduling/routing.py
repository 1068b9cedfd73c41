"""Which replica of a fleet gets a request, from what each replica reports of itself.

A decode with a TBT promise keeps every step of its replica short, and short steps are dear: with the
artifact's model of an A100, steps of 50 ms serve a sixth less than steps of 0.3 s. So requests with
a TBT are bunched, each pace on as few replicas as keep the promises, and the others run large steps.
A long answer with a short TTLT needs short steps, too, and goes where they are short anyhow. All other
requests go where they are done soonest, which fills the time that the bunched ones leave.
No replica is set apart: how many are paced follows from who would be late (PolyServe has the idea
of one bin per pace; docs/decisions/0009).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from niyama.scheduling.policy import Request


class Estimate(Protocol):
    """What a router asks a replica, or knows of it."""

    @property
    def work_s(self) -> float:
        """Engine time of all work that is in, seconds."""
        ...

    @property
    def drain_s(self) -> float:
        """Time until that work is done while requests with a TBT go on coming, seconds."""
        ...

    @property
    def tightest_tbt_s(self) -> float:
        """The tightest TBT that was promised to anybody who is in, seconds; infinite if none was."""
        ...

    def keeps(self, request: Request, now_s: float) -> bool:
        """Whether the request, and everybody behind it, would still be in time here."""
        ...

    def done_at(self, request: Request, now_s: float) -> float:
        """When the request's prefill would be done here."""
        ...

    def keeps_pace(self, request: Request) -> bool:
        """Whether steps without prefill are short enough for the request's TBT."""
        ...

    def is_hurried_for(self, request: Request) -> bool:
        """Whether the request's TTLT needs short steps, and they are as short here for somebody's TBT."""
        ...


def slack_aware(request: Request, now_s: float, replicas: Sequence[Estimate]) -> int:
    """Return the index of the replica that serves the request in time at the least cost.

    The first that keeps the promise, in the order of `_paced_order` for a request with a TBT, of
    `_unpaced_order` for others. If none does: with a TBT where it is done soonest, of those that keep
    its pace if any does; without, the first of all.
    O(n log n) for n replicas, and a question to each that is asked.
    """
    tbt_s = request.slo.tbt_s
    order = _unpaced_order(request, replicas) if tbt_s is None else _paced_order(tbt_s, replicas)
    for index in order:
        if replicas[index].keeps(request, now_s):
            return index
    if tbt_s is None:
        return order[0]
    return min(
        range(len(replicas)),
        key=lambda index: (
            not replicas[index].keeps_pace(request),
            replicas[index].done_at(request, now_s),
        ),
    )


def _paced_order(tbt_s: float, replicas: Sequence[Estimate]) -> list[int]:
    """Return replicas whose tightest TBT is the same, then looser, then tighter ones, the nearest first.

    A looser one gets shorter steps for as long as the answer takes; a tighter one loses time that those
    of its own pace need, who then make other replicas' steps as short.
    """

    def detour(index: int) -> tuple[int, float]:
        tightest_s = replicas[index].tightest_tbt_s
        if tightest_s == tbt_s:
            return (0, 0.0)
        return (1, tightest_s) if tightest_s > tbt_s else (2, -tightest_s)

    return sorted(range(len(replicas)), key=detour)


def _unpaced_order(request: Request, replicas: Sequence[Estimate]) -> list[int]:
    """Return replicas by when their work is done; whose answer is hurried, hurried ones first.

    But only those of them that are done sooner than the average, or they would be overrun.
    """
    average_s = sum([replica.drain_s for replica in replicas]) / len(replicas)

    def rank(index: int) -> tuple[bool, float, int]:
        replica = replicas[index]
        runs_along = replica.drain_s <= average_s and replica.is_hurried_for(request)
        return (not runs_along, replica.drain_s, -index)

    return sorted(range(len(replicas)), key=rank)


def least_work(replicas: Sequence[Estimate]) -> int:
    """Return the index of the replica with the least work, the first of them. O(n)."""
    loads = [replica.work_s for replica in replicas]
    return loads.index(min(loads))
