from __future__ import annotations

from collections.abc import Sequence

import pytest

from niyama.qos import Slo, paper_book
from niyama.scheduling.policy import Request
from niyama.sim.fleet import ROUTERS, Router, estimate, slack_aware
from niyama.sim.live import ReplicaLimits
from niyama.sim.replica import Replica
from niyama.sim.run import Run, Setup, simulate
from niyama.sim.verdicts import Served
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Arrival, Workload, load_lengths

WORKLOAD = Workload(
    name="azure-code", lengths=load_lengths("azure-code"), book=paper_book(), arrivals=poisson
)


def all_at_every_arrival(setup: Setup, num_requests: int, qps: float) -> dict[str, tuple[int, float]]:
    """Every replica is brought to the instant of every arrival: slow, and plainly right."""
    served: list[Served] = []
    replicas = [setup.replica(served.append) for _ in range(setup.num_replicas)]
    place: dict[str, int] = {}
    for number, arrival in enumerate(WORKLOAD.requests(qps, num_requests)):
        for replica in replicas:
            while replica.live and replica.now_s < arrival.request.arrived_at:
                replica.step()
        place[arrival.request.request_id] = setup.router.choose(arrival.request, number, replicas)
        replicas[place[arrival.request.request_id]].arrive(arrival)
    for replica in replicas:
        while replica.live:
            replica.step()
    return {done.request.request_id: (place[done.request.request_id], done.finished_at) for done in served}


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("policy", ["niyama", "edf"])
def test_fleet_gives_what_replicas_in_step_with_each_other_give(router: str, policy: str) -> None:
    setup = Setup(policy=policy, num_replicas=3, router=ROUTERS[router])
    wanted = all_at_every_arrival(setup, 250, 12.0)
    place: dict[str, int] = {}

    def noted(request: Request, number: int, replicas: Sequence[Replica]) -> int:
        place[request.request_id] = setup.router.choose(request, number, replicas)
        return place[request.request_id]

    noting = Setup(policy=policy, num_replicas=3, router=Router(noted, setup.router.reads_state))
    run: Run = simulate(noting, WORKLOAD.requests(12.0, 250))
    assert {d.request.request_id: (place[d.request.request_id], d.finished_at) for d in run.served} == wanted


def test_slack_aware_router_leaves_a_replica_idle_at_light_load() -> None:
    setup = Setup(policy="niyama", num_replicas=3, router=ROUTERS["slack-aware"], is_checked=True)
    run = simulate(setup, WORKLOAD.requests(3.0, 200))
    assert len(run.replicas[0].ended_at) > 0
    assert len(run.replicas[2].ended_at) == 0
    assert not any(done.is_late("strict") for done in run.served)


def test_slack_aware_router_uses_all_replicas_under_load() -> None:
    setup = Setup(policy="niyama", num_replicas=3, router=ROUTERS["slack-aware"])
    run = simulate(setup, WORKLOAD.requests(30.0, 2500))
    assert all(len(replica.ended_at) > 100 for replica in run.replicas)


def test_router_sees_a_request_as_a_replica_of_its_role_will() -> None:
    seen: list[Request] = []

    def noted(request: Request, number: int, replicas: Sequence[Replica]) -> int:
        seen.append(request)
        return 0

    setup = Setup(
        policy="edf",
        limits=ReplicaLimits(role="decode"),
        num_replicas=2,
        router=Router(noted, reads_state=True),
    )
    run = simulate(setup, WORKLOAD.requests(3.0, 5))
    assert [request.num_cached_tokens for request in seen] == [r.num_prompt_tokens - 1 for r in seen]
    assert {done.request.request_id: done.request for done in run.served} == {r.request_id: r for r in seen}


def test_decode_replica_keeps_a_promise_that_no_prefill_of_the_prompt_could() -> None:
    request = Request("r", 0.0, Slo(ttft_s=0.1), 8000, 64)
    kept = []
    for role in ("both", "decode"):
        replica = Setup(policy="edf", limits=ReplicaLimits(role=role)).replica(lambda served: None)
        served, _ = replica.as_served(Arrival(request, 4))
        kept.append(estimate(replica).keeps(served, 0.0))
    assert kept == [False, True]


@pytest.mark.parametrize(
    "limits", [ReplicaLimits(max_num_seqs=3), ReplicaLimits(num_kv_tokens=16_000)], ids=["seats", "memory"]
)
def test_requests_that_wait_take_room_from_those_to_come(limits: ReplicaLimits) -> None:
    replica = Setup(policy="edf", limits=limits).replica(lambda served: None)
    kept = []
    for number in range(5):
        request = Request(f"r{number}", 0.0, Slo(ttlt_s=3600.0), 4800, 64)
        kept.append(estimate(replica).keeps(request, 0.0))
        replica.arrive(Arrival(request, 4))
    assert kept == [True, True, True, False, False]
    while replica.live:
        replica.step()
    found = estimate(replica)
    assert found.num_free_seqs == limits.max_num_seqs
    assert found.num_free_kv_tokens == limits.num_kv_tokens // 16 * 16


def test_estimate_counts_the_work_that_is_in() -> None:
    setup = Setup(policy="edf", num_replicas=2)
    idle, busy = (setup.replica(lambda served: None) for _ in range(2))
    arrivals = list(WORKLOAD.requests(4.0, 8))
    for arrival in arrivals:
        busy.arrive(arrival)
    assert estimate(idle).work_s == 0.0
    waiting_s = estimate(busy).work_s
    busy.step()
    assert 0 < estimate(busy).work_s < waiting_s
    assert slack_aware(arrivals[0].request, 0, [idle, busy]) in (0, 1)
