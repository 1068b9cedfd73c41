"""Knees that are simulated before they are measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyama import compiled
from niyama.bench.contestants import Contestant, Engine
from niyama.bench.expected import HOST, ExpectedKnees
from niyama.bench.knee import GRID, MAX_LATE, STEP
from niyama.bench.planned import Lengths
from niyama.bench.promises import book_of
from niyama.bench.scenarios import KNEE, Job, Traffic
from niyama.emulation import Emulation, scaled_book
from niyama.qos import Slo
from niyama.sim.capacity import attempt
from niyama.sim.run import Setup
from niyama.workload.generate import load_lengths

PROFILE, SPEEDUP, SATURATION_QPS = "a100-80gb/llama-3-8b/tp1", 4.0, 18.0
BOOK = book_of({"interactive": Slo(ttft_s=2.0, tbt_s=0.05), "batch": Slo(ttlt_s=30.0)})


def traffic(seconds: float, speedup: float = 1.0) -> Traffic:
    return Traffic(
        trace="azure-code",
        rows=load_lengths("azure-code"),
        lengths=Lengths(),
        book=scaled_book(BOOK, speedup),
        seconds=seconds / speedup,
    )


def expected(engine: Engine) -> ExpectedKnees:
    return ExpectedKnees(
        engine=engine, traffic=traffic(200.0, SPEEDUP), book=BOOK, saturation_qps=SATURATION_QPS
    )


def emulated() -> ExpectedKnees:
    return expected(Engine(emulation=Emulation(profile=PROFILE, speedup=SPEEDUP)))


@pytest.fixture
def as_if_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "is_active", lambda: True)


@pytest.mark.usefixtures("as_if_compiled")
def test_the_device_keeps_the_expected_knee_with_a_host_that_takes_time_and_no_more() -> None:
    knee = emulated().knee(Contestant("vllm-fcfs", 256), KNEE)
    assert knee is not None
    assert GRID[0] < knee < GRID[-1]

    def holds(load: float) -> bool:
        slowed, qps = traffic(200.0, HOST), HOST * SATURATION_QPS / SPEEDUP
        requests = slowed.workload(Job(KNEE, load), qps).requests(load * qps, 10_000)
        arrivals = [one for one in requests if one.request.arrived_at < 200.0 / HOST]
        return attempt(Setup(policy="fcfs", profile=PROFILE, chunk=256), arrivals, MAX_LATE).is_met

    assert holds(knee)
    assert not holds(knee + STEP)


@pytest.mark.usefixtures("as_if_compiled")
def test_priorities_and_a_policy_of_ours_count() -> None:
    knees = emulated()
    fcfs, priority, niyama = (
        knees.knee(Contestant(policy, chunk), KNEE)
        for policy, chunk in (("vllm-fcfs", 256), ("vllm-priority", 256), ("niyama", None))
    )
    assert fcfs is not None
    assert priority is not None
    assert niyama is not None
    assert fcfs < priority <= niyama


@pytest.mark.usefixtures("as_if_compiled")
def test_an_engine_that_computes_says_nothing_beforehand() -> None:
    assert expected(Engine()).knee(Contestant("niyama"), KNEE) is None


@pytest.mark.usefixtures("as_if_compiled")
def test_what_was_found_is_kept_and_not_simulated_again() -> None:
    kept: list[dict[str, float | None]] = []
    knees = replace(
        emulated(), found={"knee of vllm-fcfs-256": 0.4}, keep=lambda found: kept.append({**found})
    )
    assert knees.knee(Contestant("vllm-fcfs", 256), KNEE) == 0.4
    assert kept == []
    found = knees.knee(Contestant("vllm-fcfs", 320), KNEE)
    assert kept == [{"knee of vllm-fcfs-256": 0.4, "knee of vllm-fcfs-320": found}]


@pytest.mark.usefixtures("as_if_compiled")
def test_of_requests_that_the_kv_cannot_hold_nothing_is_said() -> None:
    small = Emulation(profile=PROFILE, speedup=SPEEDUP, kv_tokens=1024)
    assert expected(Engine(emulation=small)).knee(Contestant("vllm-fcfs", 256), KNEE) is None


def test_interpreted_nothing_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "is_active", lambda: False)
    assert emulated().knee(Contestant("niyama"), KNEE) is None
