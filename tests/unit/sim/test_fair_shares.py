"""One tenant floods: the other is in time, and in overload the weights are honoured (decision 10)."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import replace

import pytest

from niyama.qos import QosBook, QosClass, Slo, paper_book
from niyama.sim.run import Setup, simulate
from niyama.sim.verdicts import Served
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Arrival, Shares, Workload, load_lengths
from niyama.workload.tracefile import TraceRow

TIGHT = QosBook("interactive", {"interactive": QosClass("interactive", Slo(ttft_s=2.0, tbt_s=0.05))})
LOOSE = QosBook("interactive", {"interactive": paper_book().classes["interactive"]})
CAPACITY_QPS = {"tight": 2.5, "paper": 3.45}
"""Of this class alone on the simulated A100, Azure Code lengths, at most 1 % late."""

RUN_S = 600.0
LEARNT_S = 60.0
"""So long after the first request of all nobody knows yet who asks for how much."""

TINY = Shares([(TraceRow(None, 100, 20), 1.0)])
MIDDLE = Shares([(TraceRow(None, 1500, 30), 1.0)])


def sends(
    book: QosBook, tenant: str, qps: float, lengths: Shares[TraceRow] | None = None, weight: float = 1.0
) -> list[Arrival]:
    """Return what a tenant sends in RUN_S."""
    lengths = lengths or load_lengths("azure-code")
    workload = Workload(name=tenant, lengths=lengths, book=book, arrivals=poisson, seed=sum(tenant.encode()))
    return [
        arrival._replace(
            request=replace(
                arrival.request,
                request_id=f"{tenant}/{arrival.request.request_id}",
                tenant=tenant,
                tenant_weight=weight,
            )
        )
        for arrival in workload.requests(qps, round(qps * RUN_S))
    ]


def serve(*tenants: list[Arrival], are_told_apart: bool = True) -> dict[str, list[Served]]:
    """Serve them together; return what became of each tenant's requests."""
    arrivals = list(heapq.merge(*tenants, key=lambda arrival: arrival.request.arrived_at))
    if not are_told_apart:
        arrivals = [a._replace(request=replace(a.request, tenant="")) for a in arrivals]
    served: defaultdict[str, list[Served]] = defaultdict(list)
    for done in simulate(Setup(policy="niyama"), arrivals).served:
        if done.request.arrived_at > LEARNT_S:
            served[done.request.request_id.split("/")[0]].append(done)
    return served


def late_share(served: list[Served]) -> float:
    return sum(done.is_late("strict") for done in served) / len(served)


@pytest.mark.parametrize(
    ("name", "book", "flood", "bound"),
    [
        ("tight", TIGHT, "alike", 0.035),
        ("tight", TIGHT, "tiny", 0.05),
        ("paper", LOOSE, "alike", 0.01),
        ("paper", LOOSE, "tiny", 0.02),
    ],
)
def test_tenant_within_its_share_is_hardly_ever_late_whatever_another_floods(
    name: str, book: QosBook, flood: str, bound: float
) -> None:
    capacity = CAPACITY_QPS[name]
    modest = sends(book, "modest", 0.3 * capacity)
    is_tiny = flood == "tiny"
    greedy = sends(book, "greedy", 60.0, TINY) if is_tiny else sends(book, "greedy", 2.2 * capacity)
    assert late_share(serve(modest, greedy)["modest"]) <= bound
    without = serve(modest, greedy, are_told_apart=False)
    assert late_share(without["modest"]) > 4 * bound


@pytest.mark.parametrize("book", [TIGHT, LOOSE])
def test_in_overload_twice_the_weight_is_twice_the_work_in_time(book: QosBook) -> None:
    served = serve(sends(book, "a", 6.0, MIDDLE, weight=2.0), sends(book, "b", 6.0, MIDDLE))
    in_time = {tenant: sum(not done.is_late("strict") for done in served[tenant]) for tenant in "ab"}
    assert in_time["a"] / in_time["b"] == pytest.approx(2.0, rel=0.15)


def test_tenant_alone_is_served_as_if_it_had_no_name() -> None:
    alone = sends(LOOSE, "a", 2 * CAPACITY_QPS["paper"])
    named, unnamed = (serve(alone, are_told_apart=is_named)["a"] for is_named in (True, False))
    assert [done[1:] for done in named] == [done[1:] for done in unnamed]
