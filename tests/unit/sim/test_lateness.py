from __future__ import annotations

import math
from dataclasses import replace

import pytest

from niyama.latency import get_profile
from niyama.qos import Importance, QosBook, QosClass, Slo, paper_book
from niyama.scheduling.policy import Request
from niyama.sim.fleet import ROUTERS
from niyama.sim.lateness import fewest_late, late_share_bound
from niyama.sim.live import ReplicaLimits
from niyama.sim.prices import Prices
from niyama.sim.run import Setup, simulate
from niyama.sim.verdicts import CRITERIA, Criterion, Served
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Workload, load_lengths

PROFILE = "a100-80gb/llama-3-8b/tp1"
PRICES = Prices(0.001, 0.01, 0.0, 0.0, 0.02)
"""A prompt of 1000 tokens takes a second, 100 further tokens as long, but at least two seconds of steps."""

FEW_SEATS = ReplicaLimits(max_num_seqs=24, max_num_batched_tokens=2048)
"""The fewer shapes a step can have, the sooner its prices are known."""

TIGHT = {
    "chat": QosClass("chat", Slo(ttft_s=2.0, tbt_s=0.05), Importance.HIGH),
    "draft": QosClass("draft", Slo(ttft_s=4.0, tbt_s=0.1)),
    "batch": QosClass("batch", Slo(ttlt_s=30.0), Importance.LOW),
}


def served(number: int, slo: Slo, num_prompt: int = 1000, num_tokens: int = 1, at: float = 0.0) -> Served:
    request = Request(f"r{number}", at, slo, num_prompt, 4096)
    return Served(request, math.inf, math.inf, num_tokens, 0.0, False, 0)


def fewest(
    slo: Slo, count: int, criterion: Criterion = "strict", num_replicas: int = 1, **lengths: int
) -> int:
    done = [served(number, slo, **lengths) for number in range(count)]
    return fewest_late(done, PRICES, criterion, num_replicas)


def test_what_fits_is_not_late_and_what_does_not_is() -> None:
    slo = Slo(ttft_s=4.0)
    assert fewest(slo, 4) == 0
    assert fewest(slo, 6) == 2
    assert fewest(slo, 6, num_replicas=2) == 0
    assert fewest(slo, 10, num_replicas=2) == 2


def test_whole_answer_counts_where_its_last_token_is_due() -> None:
    assert fewest(Slo(ttlt_s=4.0), 4, num_tokens=101) == 2
    # The last token is due 2 s after the first.
    assert fewest(Slo(ttft_s=4.0, tbt_s=0.02), 4, num_tokens=101) == 1
    assert fewest(Slo(ttft_s=4.0, tbt_s=0.02), 4, "artifact", num_tokens=101) == 0


def test_who_could_not_be_in_time_alone_is_late_and_takes_no_room() -> None:
    hopeless = served(9, Slo(ttft_s=4.0), num_prompt=4001)
    in_time = [served(number, Slo(ttft_s=4.0)) for number in range(4)]
    assert fewest_late([hopeless, *in_time], PRICES, "strict") == 1
    assert fewest(Slo(ttft_s=4.0, tbt_s=0.019), 1, num_tokens=4001) == 1
    assert fewest(Slo(ttlt_s=2.9), 1, num_tokens=101) == 1


def test_without_a_promise_nobody_is_late() -> None:
    assert fewest(Slo(), 50) == fewest(Slo(tbt_s=0.05), 50) == 0
    assert late_share_bound([], get_profile(PROFILE), FEW_SEATS, criterion="strict") == {}


def test_cached_tokens_are_no_work() -> None:
    slo = Slo(ttft_s=4.0)
    cached = Request("r", 0.0, slo, 1000, 4096, num_cached_tokens=900)
    done = [Served(cached, math.inf, math.inf, 1, 0.0, False, 0)] * 20
    assert fewest_late(done, PRICES, "strict") == 0


@pytest.mark.parametrize("policy", ["srpf", "paper", "niyama"])
@pytest.mark.parametrize(
    ("trace", "qps", "limits"),
    [
        ("azure-code", 9.0, FEW_SEATS),
        ("sharegpt", 6.0, replace(FEW_SEATS, num_kv_tokens=20_000)),
        ("azure-conv", 40.0, replace(FEW_SEATS, role="prefill")),
        ("azure-conv", 60.0, replace(FEW_SEATS, role="decode")),
    ],
)
def test_no_policy_is_below_the_bound(policy: str, trace: str, qps: float, limits: ReplicaLimits) -> None:
    book = QosBook("chat", TIGHT)
    workload = Workload(name=trace, lengths=load_lengths(trace), book=book, arrivals=poisson)
    setup = Setup(policy=policy, profile=f"{PROFILE}-fitted", limits=limits)
    done = simulate(setup, workload.requests(qps, 300)).served
    for criterion in CRITERIA[:1] if trace == "azure-conv" else CRITERIA:
        bound = late_share_bound(done, get_profile(setup.profile), limits, criterion=criterion)
        assert bound["all"] <= sum(one.is_late(criterion) for one in done) / len(done)
        for importance in Importance:
            late = [one.is_late(criterion) for one in done if one.request.importance is importance]
            assert bound[importance.name.lower()] <= sum(late) / len(late)
    assert limits.role == "decode" or bound["all"] > 0


def test_fleet_is_bounded_as_one_engine_of_its_speed() -> None:
    workload = Workload(
        name="x", lengths=load_lengths("azure-code"), book=QosBook("chat", TIGHT), arrivals=poisson
    )
    setup = Setup(policy="niyama", num_replicas=2, router=ROUTERS["least-work"], limits=FEW_SEATS)
    done = simulate(setup, workload.requests(30.0, 300)).served
    profile = get_profile(PROFILE)
    one, two, many = (
        late_share_bound(done, profile, setup.limits, criterion="strict", num_replicas=n)["all"]
        for n in (1, 2, 50)
    )
    assert one > two >= many == 0
    assert 0 < two <= sum(request.is_late("strict") for request in done) / len(done)


def test_light_load_needs_nobody_to_be_late() -> None:
    workload = Workload(
        name="azure-code", lengths=load_lengths("azure-code"), book=paper_book(), arrivals=poisson
    )
    done = simulate(Setup(policy="edf"), workload.requests(1.0, 60)).served
    bound = late_share_bound(done, get_profile(PROFILE), FEW_SEATS, criterion="strict")
    assert bound == {"all": 0.0, "normal": 0.0}
