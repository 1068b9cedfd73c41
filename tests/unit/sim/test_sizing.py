from __future__ import annotations

from collections import Counter

import pytest

from niyama.qos import QosBook, QosClass, Slo, paper_book
from niyama.sim.fleet import ROUTERS
from niyama.sim.planning import Fleet, gpus_per_replica, size_fleet, size_fleets
from niyama.sim.run import Setup, simulate
from niyama.sim.silo import make_silos, silo_late_share, simulate_silos
from niyama.sim.sizing import Demand, fewest_replicas, first_true, probe_size
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Workload, load_lengths

WORKLOAD = Workload(
    name="azure-code", lengths=load_lengths("azure-code"), book=paper_book(), arrivals=poisson
)
DEMAND = Demand(workload=WORKLOAD, qps=10.0, num_requests=700)


@pytest.mark.parametrize("guess", [1, 2, 5, 13, 40])
@pytest.mark.parametrize("answer", [1, 2, 3, 7, 13, 39, 40])
def test_first_true_finds_the_least_in_few_calls(answer: int, guess: int) -> None:
    calls: list[int] = []

    def is_met(size: int) -> bool:
        calls.append(size)
        return size >= answer

    assert first_true(is_met, guess, 40) == answer
    assert len(calls) == len(set(calls)) <= 12


@pytest.mark.parametrize("guess", [1, 17, 40])
def test_first_true_of_nothing_is_none(guess: int) -> None:
    assert first_true(lambda size: False, guess, 40) is None


def test_fewest_replicas_are_enough_and_one_less_is_not() -> None:
    setup = Setup(policy="niyama")
    found = fewest_replicas(setup, DEMAND, guess=3, sample=0)
    assert found.replicas is not None
    assert probe_size(setup, DEMAND, found.replicas, 0.01, 0).is_met
    assert not probe_size(setup, DEMAND, found.replicas - 1, 0.01, 0).is_met
    assert max(found.late_share.values()) <= 0.01


def test_answer_does_not_depend_on_the_guess() -> None:
    setup = Setup(policy="edf")
    assert len({fewest_replicas(setup, DEMAND, guess=guess, sample=0).replicas for guess in (1, 6)}) == 1


def test_sampled_replicas_serve_what_they_serve_in_the_whole_fleet() -> None:
    setup = Setup(policy="niyama", num_replicas=4)
    served = simulate(setup, DEMAND.requests()).served
    totals, late = Counter[str](), Counter[str]()
    for done in served:
        if int(done.request.request_id[1:]) % 4 < 2:
            totals[done.request.qos_class] += 1
            late[done.request.qos_class] += done.is_late("strict")
    part = probe_size(setup, DEMAND, 4, 0.9, 2)
    assert part.num_simulated == 2
    assert part.late_share == {name: late[name] / totals[name] for name in sorted(totals)}


def test_router_that_reads_state_is_never_sampled() -> None:
    setup = Setup(policy="niyama", router=ROUTERS["slack-aware"])
    assert probe_size(setup, DEMAND, 3, 0.01, 1).num_simulated == 3


def test_promise_that_no_size_keeps_is_said_to_be_so() -> None:
    book = QosBook("q", {"q": QosClass("q", Slo(ttft_s=0.001))})
    workload = Workload(name="azure-code", lengths=load_lengths("azure-code"), book=book, arrivals=poisson)
    demand = Demand(workload=workload, qps=2.0, num_requests=200)
    assert fewest_replicas(Setup(policy="edf"), demand, guess=1).replicas is None


def test_silos_are_by_kind_of_promise_or_by_class() -> None:
    base = Setup(policy="niyama")
    kinds = make_silos(WORKLOAD, base)
    assert [(silo.name, silo.setup.policy, silo.setup.chunk) for silo in kinds] == [
        ("interactive", "fcfs", 256),
        ("batch+background", "fcfs", 2048),
    ]
    each = make_silos(WORKLOAD, base, policy="edf", is_per_class=True, batch_chunk=512)
    assert [silo.classes for silo in each] == [("interactive",), ("batch",), ("background",)]
    assert each[2].setup.chunk == 512


def test_silo_of_a_class_that_does_not_occur_is_left_out() -> None:
    workload = Workload(
        name="x", lengths=WORKLOAD.lengths, book=paper_book(), arrivals=poisson, mix={"batch": 1.0}
    )
    assert [silo.name for silo in make_silos(workload, Setup(policy="edf"))] == ["batch"]


def test_silos_serve_everybody_on_their_own_replicas() -> None:
    silos = [silo.sized(2) for silo in make_silos(WORKLOAD, Setup(policy="edf"))]
    run = simulate_silos(silos, WORKLOAD.requests(8.0, 300))
    assert sorted(d.request.request_id for d in run.served) == sorted(f"r{n}" for n in range(300))
    assert {d.request.qos_class for d in run.runs["interactive"].served} == {"interactive"}
    assert run.num_replicas == 4
    assert set(silo_late_share(run, silos)) == {"all", "interactive", "batch", "background"}


def test_class_without_a_silo_or_with_two_is_an_error() -> None:
    silos = make_silos(WORKLOAD, Setup(policy="edf"))
    with pytest.raises(ValueError, match="class 'interactive' is in none of them"):
        simulate_silos(silos[1:], WORKLOAD.requests(8.0, 9))
    with pytest.raises(ValueError, match="class 'interactive' is in two of them"):
        simulate_silos([silos[0], silos[0]], WORKLOAD.requests(8.0, 9))


def test_demand_of_a_silo_is_its_part_of_the_shared_one() -> None:
    part = Demand(workload=WORKLOAD, qps=10.0, num_requests=700, classes=("batch",))
    assert list(part.requests()) == [a for a in DEMAND.requests() if a.request.qos_class == "batch"]


def test_fleet_takes_the_set_up_of_which_the_fewest_do() -> None:
    setups = tuple(Setup(policy="fcfs", chunk=chunk) for chunk in (32, 256))
    sized = size_fleet(Fleet(name="f", setups=setups, demand=DEMAND, sample=1))
    alone = [size_fleet(Fleet(name="f", setups=(setup,), demand=DEMAND, sample=1)) for setup in setups]
    assert sized.replicas == min(one.replicas for one in alone if one.replicas is not None)
    assert {chunk for chunk, _ in sized.probes} == {32, 256}


def test_sizes_do_not_depend_on_the_number_of_processes() -> None:
    fleets = [Fleet(name=p, setups=(Setup(policy=p),), demand=DEMAND, sample=1) for p in ("edf", "fcfs")]
    one, two = ([sized.replicas for sized in size_fleets(fleets, jobs=jobs)] for jobs in (1, 2))
    assert one == two


@pytest.mark.parametrize(
    ("profile", "num"), [("a100-80gb/llama-3-8b/tp1", 1), ("h100/llama-70b/tp4-fitted", 4), ("mine", None)]
)
def test_gpus_follow_from_the_name_of_the_profile(profile: str, num: int | None) -> None:
    assert gpus_per_replica(profile) == num
