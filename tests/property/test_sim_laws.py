"""The laws on random workloads: every step of a checked run asserts L1 to L5, L7 and L9."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from niyama.qos import Importance, Slo
from niyama.scheduling.policy import Request
from niyama.scheduling.registry import POLICIES
from niyama.sim.live import ReplicaLimits
from niyama.sim.run import Run, Setup, simulate
from niyama.workload.generate import Arrival

SLOS = (
    Slo(ttft_s=1.0, tbt_s=0.05),
    Slo(ttft_s=6.0, tbt_s=0.1),
    Slo(ttlt_s=5.0),
    Slo(ttlt_s=600.0),
    Slo(0.5, 0.04, 2.0),
)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    at, every = 0.0, []
    for number in range(draw(st.integers(1, 25))):
        at += draw(st.sampled_from((0.0, 0.01, 0.3, 20.0)))
        request = Request(
            f"r{number}",
            at,
            draw(st.sampled_from(SLOS)),
            draw(st.integers(1, 600)),
            4096,
            importance=draw(st.sampled_from(Importance)),
            num_cached_tokens=draw(st.sampled_from((0, 0, 64, 10_000))),
        )
        every.append(Arrival(request, draw(st.integers(1, 80))))
    return every


def setup(policy: str, num_kv_tokens: int) -> Setup:
    limits = ReplicaLimits(num_kv_tokens=num_kv_tokens, max_num_seqs=8, max_num_batched_tokens=512)
    return Setup(policy=policy, limits=limits, is_checked=True)


def times(run: Run) -> list[tuple[str, float, float]]:
    return [(done.request.request_id, done.first_at, done.finished_at) for done in run.served]


@settings(max_examples=60)
@given(every=arrivals(), policy=st.sampled_from(sorted(POLICIES)), kv=st.sampled_from((800, 1600, 10_000)))
def test_checked_run_of_any_policy_serves_everybody(every: list[Arrival], policy: str, kv: int) -> None:
    run = simulate(setup(policy, kv), every)
    assert sorted(done.request.request_id for done in run.served) == sorted(
        a.request.request_id for a in every
    )
    outputs = {a.request.request_id: a.num_output_tokens for a in every}
    assert {done.request.request_id: done.num_tokens for done in run.served} == outputs


@settings(max_examples=25)
@given(every=arrivals(), policy=st.sampled_from(sorted(POLICIES)))
def test_run_is_the_same_twice(every: list[Arrival], policy: str) -> None:
    assert times(simulate(setup(policy, 1600), every)) == times(simulate(setup(policy, 1600), every))


@settings(max_examples=25)
@given(every=arrivals(), policy=st.sampled_from(sorted(POLICIES)))
def test_hidden_output_length_of_the_last_request_changes_nothing_before_it_ends(
    every: list[Arrival], policy: str
) -> None:
    last = every[-1]
    longer = [*every[:-1], last._replace(num_output_tokens=last.num_output_tokens + 40)]
    short, long = (simulate(setup(policy, 10_000), some) for some in (every, longer))
    end_s = next(done.finished_at for done in short.served if done.request is last.request)
    before = [[time for time in times(run) if time[2] < end_s] for run in (short, long)]
    assert before[0] == before[1]


def test_arrivals_shifted_in_time_are_served_the_same() -> None:
    slo = Slo(ttft_s=1.0, tbt_s=0.05)
    every = [Arrival(Request(f"r{n}", n / 8, slo, 50 + n, 4096), 5 + n) for n in range(40)]
    late = [a._replace(request=replace(a.request, arrived_at=a.request.arrived_at + 1024.0)) for a in every]
    one, two = (simulate(setup("niyama", 1600), some) for some in (every, late))
    assert [t[0] for t in times(one)] == [t[0] for t in times(two)]
