from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from niyama.qos import Slo, paper_book
from niyama.scheduling import routing
from niyama.scheduling.policy import Request
from niyama.scheduling.reports import Report
from niyama.sim.fleet import ROUTERS, Router, by_reports, by_rule, report
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
    choose = setup.router.start()
    for number, arrival in enumerate(WORKLOAD.requests(qps, num_requests)):
        for replica in replicas:
            while replica.live and replica.now_s < arrival.request.arrived_at:
                replica.step()
        place[arrival.request.request_id] = choose(arrival.request, number, replicas)
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
    choose = setup.router.start()

    def noted(request: Request, number: int, replicas: Sequence[Replica]) -> int:
        place[request.request_id] = choose(request, number, replicas)
        return place[request.request_id]

    noting = Setup(policy=policy, num_replicas=3, router=Router(lambda: noted, setup.router.reads_state))
    run: Run = simulate(noting, WORKLOAD.requests(12.0, 250))
    assert {d.request.request_id: (place[d.request.request_id], d.finished_at) for d in run.served} == wanted


def classes_by_replica(router: str, qps: float, num_requests: int) -> list[Counter[str]]:
    """Return how many requests of each class three replicas get."""
    found = [Counter[str]() for _ in range(3)]
    choose = ROUTERS[router].start()

    def noted(request: Request, number: int, replicas: Sequence[Replica]) -> int:
        index = choose(request, number, replicas)
        found[index][request.qos_class] += 1
        return index

    setup = Setup(policy="niyama", num_replicas=3, router=by_rule(noted), is_checked=True)
    run = simulate(setup, WORKLOAD.requests(qps, num_requests))
    assert not any(done.is_late("strict") for done in run.served)
    return found


def test_slack_aware_router_bunches_requests_with_a_pace() -> None:
    first, *others = classes_by_replica("slack-aware", 4.0, 300)
    assert first["interactive"] > 0
    assert not any(counts["interactive"] for counts in others)
    assert all(counts["batch"] > 0 for counts in others)


SHAREGPT = replace(WORKLOAD, name="sharegpt", lengths=load_lengths("sharegpt"))


def device_s(policy: str, router: str, workload: Workload = WORKLOAD, qps: float = 22.0) -> float:
    """Return the time that all devices need, not the last one's: which replica ends last is luck."""
    total_s = 0.0
    for seed in range(2):
        setup = Setup(policy=policy, num_replicas=4, router=ROUTERS[router])
        run = simulate(setup, replace(workload, seed=seed).requests(qps, round(180 * qps)))
        total_s += sum(replica.now_s for replica in run.replicas)
    return total_s


def test_bunched_paces_leave_the_fleet_more_throughput() -> None:
    bunched_s = device_s("niyama", "slack-aware", SHAREGPT, 9.0)
    assert bunched_s < 0.97 * device_s("niyama", "least-loaded", SHAREGPT, 9.0)
    assert bunched_s < 0.96 * device_s("paper", "least-loaded", SHAREGPT, 9.0)


def test_bunched_paces_help_where_replicas_let_readers_begin_together_too() -> None:
    # With short answers a replica of `niyama` bunches by itself, so the router has less to add.
    bunched_s = device_s("niyama", "slack-aware")
    assert bunched_s < 0.99 * device_s("niyama", "least-loaded")
    assert bunched_s < 0.97 * device_s("paper", "least-loaded")


def test_reports_are_renewed_once_per_period_and_count_what_was_sent_since() -> None:
    taken: list[tuple[float, float, float]] = []

    def first(request: Request, now_s: float, reports: Sequence[Report]) -> int:
        taken.append((now_s, reports[0].taken_at, reports[0].work_s))
        return 0

    setup = Setup(policy="edf", num_replicas=2, router=by_reports(first, every_s=1.0))
    simulate(setup, WORKLOAD.requests(8.0, 100))
    for (_, before_at, before_s), (now_s, taken_at, work_s) in pairwise(taken):
        assert taken_at <= now_s < taken_at + 1.0
        assert taken_at > before_at or work_s > before_s


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
        router=by_rule(noted),
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
        kept.append(report(replica, 0.0).keeps(served, 0.0))
    assert kept == [False, True]


@pytest.mark.parametrize(
    "limits", [ReplicaLimits(max_num_seqs=3), ReplicaLimits(num_kv_tokens=16_000)], ids=["seats", "memory"]
)
def test_pace_is_promised_only_where_there_is_room(limits: ReplicaLimits) -> None:
    replica = Setup(policy="edf", limits=limits, chunk=8192).replica(lambda served: None)
    paced, free = Slo(ttft_s=60.0, tbt_s=0.5), Slo(ttlt_s=3600.0)
    kept = []
    for number in range(4):
        kept.append(report(replica, replica.now_s).keeps(Request(f"p{number}", 0.0, paced, 4800, 64), 0.0))
        assert report(replica, replica.now_s).keeps(Request(f"f{number}", 0.0, free, 4800, 64), 0.0)
        replica.arrive(Arrival(Request(f"r{number}", 0.0, free, 4800, 64), 40))
        replica.step()
    assert kept == [True, True, True, False]


def test_report_counts_the_work_that_is_in() -> None:
    setup = Setup(policy="edf", num_replicas=2)
    idle, busy = (setup.replica(lambda served: None) for _ in range(2))
    for arrival in WORKLOAD.requests(4.0, 8):
        busy.arrive(arrival)
    assert report(idle, 0.0).work_s == 0.0
    waiting_s = report(busy, 0.0).work_s
    busy.step()
    assert 0 < report(busy, 0.0).work_s < waiting_s


def crowded_replica(slo: Slo, num_requests: int) -> Replica:
    """Return a replica of `niyama` with as many requests of 2,000 tokens, the first of which decodes."""
    replica = Setup(policy="niyama").replica(lambda served: None)
    for number in range(num_requests):
        replica.arrive(Arrival(Request(f"r{number}", 0.0, slo, 2000, 64), 64))
    while not replica.decoding():
        replica.step()
    return replica


READER, OVERNIGHT = Slo(ttft_s=60.0, tbt_s=0.05), Slo(ttlt_s=8 * 3600.0)


def test_work_takes_longer_where_requests_with_a_pace_go_on_coming() -> None:
    of_readers, of_others = (
        report(replica, replica.now_s)
        for replica in (crowded_replica(READER, 8), crowded_replica(OVERNIGHT, 8))
    )
    assert of_others.drain_s == of_others.work_s
    assert of_readers.drain_s > 1.05 * of_readers.work_s


@pytest.mark.parametrize(
    ("ttlt_s", "num_expected", "is_hurried"), [(60.0, 1000, True), (60.0, 100, False), (600.0, 1000, False)]
)
def test_hurried_answer_goes_where_steps_are_short_anyhow(
    ttlt_s: float, num_expected: int, is_hurried: bool
) -> None:
    replicas = [crowded_replica(OVERNIGHT, n) for n in (3, 9)]
    replicas.insert(1, crowded_replica(READER, 4))
    now_s = max(replica.now_s for replica in replicas)
    reports = [report(replica, now_s) for replica in replicas]
    request = Request("new", now_s, Slo(ttlt_s=ttlt_s), 500, 4096, expected_output_tokens=num_expected)
    assert [one.is_hurried_for(request) for one in reports] == [False, is_hurried, False]
    assert routing.slack_aware(request, now_s, reports) == (1 if is_hurried else 0)
