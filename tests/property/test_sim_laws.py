"""The laws on random workloads: every step of a checked run asserts L1 to L5, L7 and L9.

Where two runs are compared, all times are sums of powers of two, so that nothing is rounded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.property.hosts import linear_model

from niyama.qos import Importance, Slo
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import BatchShape, Plan, Request
from niyama.scheduling.registry import POLICIES, make_policy
from niyama.sim.checked import CheckedPolicy, CheckedReplica
from niyama.sim.live import ReplicaLimits
from niyama.sim.run import Run, Setup, simulate
from niyama.sim.verdicts import Served
from niyama.workload.generate import Arrival

SLOS = (
    Slo(ttft_s=1.0, tbt_s=0.05),
    Slo(ttft_s=6.0, tbt_s=0.1),
    Slo(ttlt_s=5.0),
    Slo(ttlt_s=600.0),
    Slo(0.5, 0.04, 2.0),
)


NAMES = sorted(POLICIES)
ABORTS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 24)), max_size=12)
"""Which request is given up after which step."""


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    at, every = 0.0, []
    for number in range(draw(st.integers(1, 25))):
        at += draw(st.sampled_from((0.0, 1 / 128, 1 / 4, 20.0)))
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
@given(every=arrivals(), policy=st.sampled_from(NAMES), kv=st.sampled_from((800, 1600, 10_000)))
def test_checked_run_of_any_policy_serves_everybody(every: list[Arrival], policy: str, kv: int) -> None:
    run = simulate(setup(policy, kv), every)
    assert sorted(done.request.request_id for done in run.served) == sorted(
        a.request.request_id for a in every
    )
    outputs = {a.request.request_id: a.num_output_tokens for a in every}
    assert {done.request.request_id: done.num_tokens for done in run.served} == outputs


@settings(max_examples=25)
@given(every=arrivals(), policy=st.sampled_from(NAMES))
def test_run_is_the_same_twice(every: list[Arrival], policy: str) -> None:
    assert times(simulate(setup(policy, 1600), every)) == times(simulate(setup(policy, 1600), every))


class Engine(CheckedReplica):
    """A checked engine whose steps take dyadic times; keeps what was planned and served."""

    def __init__(self, policy: str, num_kv_tokens: int = 10_000, max_num_seqs: int = 8) -> None:
        limits = ReplicaLimits(
            num_kv_tokens=num_kv_tokens, max_num_seqs=max_num_seqs, max_num_batched_tokens=512
        )
        self.plans: list[Plan] = []
        self.served: dict[str, Served] = {}
        self.num_plans_at_first_finish = 0
        checked = CheckedPolicy(make_policy(policy, linear_model(fixed_s=1 / 512)))
        self._plan_it = checked.plan
        checked.plan = self._plan  # type: ignore[method-assign]
        super().__init__(checked, linear_model(fixed_s=1 / 512), limits, self._keep)

    def _plan(self, now_s: float, limits: Limits) -> Plan:
        self.plans.append(self._plan_it(now_s, limits))
        return self.plans[-1]

    def _keep(self, served: Served) -> None:
        self.num_plans_at_first_finish = self.num_plans_at_first_finish or len(self.plans)
        self.served[served.request.request_id] = served

    def decisions(self) -> list[tuple[object, ...]]:
        return [(p.budget, p.chunks, p.held, p.stalled, p.relegated, p.restored) for p in self.plans]


def run(
    policy: str,
    every: list[Arrival],
    num_kv_tokens: int = 10_000,
    aborts: list[tuple[int, int]] | None = None,
) -> Engine:
    engine, given_up = Engine(policy, num_kv_tokens), sorted(aborts or [])
    waiting = list(every)
    while waiting or engine.live:
        while waiting and (not engine.live or waiting[0].request.arrived_at <= engine.now_s):
            engine.arrive(waiting.pop(0))
        engine.step()
        while given_up and given_up[0][0] <= len(engine.ended_at):
            engine.abort(f"r{given_up.pop(0)[1]}")
    return engine


@settings(max_examples=60)
@given(every=arrivals(), policy=st.sampled_from(NAMES), kv=st.sampled_from((800, 1600)), aborts=ABORTS)
def test_given_up_requests_leave_nothing_behind(
    every: list[Arrival], policy: str, kv: int, aborts: list[tuple[int, int]]
) -> None:
    """L1, L4 and L10, whenever a client leaves."""
    engine = run(policy, every, kv, aborts)
    given_up = {f"r{number}" for _, number in aborts}
    assert {a.request.request_id for a in every} - given_up <= set(engine.served)
    assert engine.kv.free == engine.kv.num_blocks
    assert engine.num_running == 0
    assert not any(engine.kv.growth(step) for step in range(64))
    for done in engine.served.values():
        wanted = {a.request.request_id: a.num_output_tokens for a in every}[done.request.request_id]
        assert done.num_tokens == wanted


@settings(max_examples=40)
@given(every=arrivals(), policy=st.sampled_from(NAMES), longer=st.integers(1, 40))
def test_hidden_output_lengths_change_no_plan_before_the_first_finish(
    every: list[Arrival], policy: str, longer: int
) -> None:
    """L8: no oracle."""
    others = [a._replace(num_output_tokens=a.num_output_tokens + longer) for a in every]
    one, two = run(policy, every), run(policy, others)
    num_plans = min(one.num_plans_at_first_finish, two.num_plans_at_first_finish)
    assert num_plans > 0
    assert one.decisions()[:num_plans] == two.decisions()[:num_plans]


@settings(max_examples=40)
@given(every=arrivals(), policy=st.sampled_from(NAMES), shift_s=st.sampled_from((1024.0, 65536.0)))
def test_plans_are_the_same_at_any_time_of_day(every: list[Arrival], policy: str, shift_s: float) -> None:
    """L11, time."""
    late = [a._replace(request=replace(a.request, arrived_at=a.request.arrived_at + shift_s)) for a in every]
    assert run(policy, every, 1600).decisions() == run(policy, late, 1600).decisions()


@settings(max_examples=40)
@given(every=arrivals(), policy=st.sampled_from(NAMES))
def test_plans_do_not_depend_on_the_order_of_simultaneous_arrivals(every: list[Arrival], policy: str) -> None:
    """L11, order."""
    swapped = sorted(reversed(every), key=lambda a: a.request.arrived_at)
    assert run(policy, every, 1600).decisions() == run(policy, swapped, 1600).decisions()


@settings(max_examples=60)
@given(
    crowd=st.lists(
        st.tuples(st.integers(20, 2000), st.floats(0.05, 3.0), st.sampled_from(Importance)),
        min_size=2,
        max_size=8,
    )
)
@example(
    # Steps that are short while there is time must not take the time that all need.
    crowd=[(108, 2.0, Importance.HIGH), (1237, 1.0, Importance.HIGH), (2000, 1.0, Importance.HIGH)]
)
@example(
    crowd=[
        (68, 1.0, Importance.HIGH),
        (1165, 1.25, Importance.NORMAL),
        (1973, 1.0, Importance.HIGH),
        (2000, 1.5, Importance.HIGH),
    ]
)
@example(
    # Nobody is set aside for a stall that has not come, to the good of the less important.
    crowd=[
        (32, 2.0, Importance.HIGH),
        (578, 1.0, Importance.NORMAL),
        (1927, 1.0, Importance.HIGH),
        (2000, 1.125, Importance.HIGH),
    ]
)
def test_more_important_requests_are_in_time_if_they_can_be(
    crowd: list[tuple[int, float, Importance]],
) -> None:
    """L12, for requests that come together: by deadline alone tells who can be in time."""
    every = [
        Arrival(Request(f"r{i}", 0.0, Slo(ttft_s=ttft_s), num_tokens, 1, importance=importance), 1)
        for i, (num_tokens, ttft_s, importance) in enumerate(crowd)
    ]
    step_s = linear_model(fixed_s=1 / 512).predict_s(BatchShape(512, 0))
    everybody = run("niyama", every, 20_000).served
    for importance in Importance:
        important = [a for a in every if a.request.importance <= importance]
        alone = run("edf", important, 20_000).served.values()
        if important and all(s.first_at + step_s < (s.request.slo.ttft_s or 0.0) for s in alone):
            late = [a for a in important if everybody[a.request.request_id].is_late("strict")]
            assert not late, late


@pytest.mark.parametrize("policy", ["niyama", "paper", "edf"])
def test_simulate_prints_the_same_bytes_whatever_the_hash_seed(policy: str) -> None:
    """L6 for the whole command, in processes of their own; only the wall time may differ."""
    words = ["simulate", "--trace", "sharegpt", "--qps", "3", "--requests", "300", "--policy", policy]
    words += ["--kv-tokens", "40000", "--low-share", "0.2", "--tenants", "a=1,b=2", "--arrivals", "gamma:2"]
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "niyama", *words, "--replicas", "2", "--seed", "5", "--json", "-"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    # All but the time of this machine: the very bytes.
    kept = [[line for line in lines if b'"wall_s"' not in line] for lines in outputs]
    assert len(kept[0]) > 30
    assert len(kept[0]) == len(outputs[0]) - 1
    assert kept[0] == kept[1]
