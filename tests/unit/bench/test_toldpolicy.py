"""Logs that hold more than one server, or a policy that failed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tests.unit.bench.recorded import LIMITS, TRUTH, arrivals, header, record, start

from niyama.bench.recordedrun import RunError, join
from niyama.bench.replay import replay
from niyama.bench.toldpolicy import ToldPolicy
from niyama.bench.twin import twin_of
from niyama.latency.profilefile import Calibration
from niyama.scheduling.recording import Call, request_to_mapping
from niyama.sim.live import ReplicaLimits
from niyama.workload.generate import Arrival

PAUSE_S = 100.0


def test_a_server_knows_nothing_of_those_that_wrote_to_the_same_log_before() -> None:
    """The first server is slower, has other limits and another policy, and is killed amid its requests."""
    small = ReplicaLimits(num_kv_tokens=30_000, max_num_seqs=32, max_num_batched_tokens=512)
    before = record(arrivals(80, 8.0, seed=3), "edf", TRUTH.scaled(3.0))
    calls = json.loads(json.dumps(before.calls).replace("cmpl-nb01-", "cmpl-nb00-"))
    killed = calls[: len(calls) // 2]
    run = record(late(arrivals(80, 8.0)))
    both = join("second", header(), run.records, [start("edf", small), *killed[1:], *run.calls])
    twin = twin_of(both, Calibration("truth", TRUTH), seed=0)
    assert twin.token_at == {one.id: one.token_at for one in run.records}


def late(requests: list[Arrival], by_s: float = PAUSE_S) -> list[Arrival]:
    return [
        one._replace(request=dataclasses.replace(one.request, arrived_at=one.request.arrived_at + by_s))
        for one in requests
    ]


def test_a_run_is_that_of_the_server_that_served_it_whoever_wrote_to_its_log() -> None:
    """Others come before and after it, one of them asked for the same requests at another time."""
    run = record(late(arrivals(60, 8.0), 1000.0))
    first = next(n for n, call in enumerate(run.calls) if call["call"] == "begin")
    before_it, in_it, after_it = (
        {"call": "realised", "causes": {name: 1}} for name in ("warm", "own", "new")
    )
    own = [*run.calls[:2], before_it, *run.calls[2 : first + 1], in_it, *run.calls[first + 1 :]]
    small = ReplicaLimits(num_kv_tokens=30_000, max_num_seqs=32, max_num_batched_tokens=512)
    other = record(late(arrivals(60, 8.0), 2000.0), "edf", limits=small).calls
    attempt = record(arrivals(70, 8.0), "edf", limits=small).calls
    both = join("mine", header(), run.records, [*attempt, *own, *other, after_it])
    assert both.calls == own
    assert both.log.engine["num_kv_tokens"] == LIMITS.num_kv_tokens
    assert (both.begins_at, len(both.steps)) == (0.0, len(run.steps))
    report = replay(both, Calibration("truth", TRUTH), repeats=1).report
    assert report["policy"] == "niyama"
    assert report["realised_otherwise_by_cause"] == {"own": 1}
    assert report["error"]["steps"] == 0


def calls_of(*more: Call) -> list[Call]:
    return [start("niyama", LIMITS), {"call": "fresh"}, *more]


FRESH: Call = {"call": "fresh"}
BEGIN: Call = {
    "call": "begin",
    "at": 1.0,
    "prefills": [],
    "shape": [0, 1, 100, 0, 0],
    "stalled": [],
    "preempted": [],
}
OBSERVE: Call = {
    "call": "observe",
    "started_at": 1.0,
    "ended_at": 1.1,
    "completed": [],
    "extra_tokens": {},
    "is_clean": True,
}


def arrive(request_id: str, at: float) -> Call:
    (arrival,) = arrivals(1, 1.0)
    request = dataclasses.replace(arrival.request, request_id=request_id, arrived_at=at)
    return {"call": "arrive", "now_s": at, "request": request_to_mapping(request)}


def told(*more: Call, until: float = 9.0) -> Any:
    return ToldPolicy("night", calls_of(*more), until).policy_at(until)


def test_a_fresh_policy_has_nothing_in_and_nothing_in_flight() -> None:
    assert told(arrive("a", 0.5), BEGIN, OBSERVE)
    with pytest.raises(RunError, match=r"^night: the policy fails at a recorded observe: observe: no step"):
        told(arrive("a", 0.5), BEGIN, FRESH, OBSERVE)
    assert told(arrive("a", 0.5), BEGIN, FRESH, OBSERVE, FRESH), "it failed at the server as well"
    assert told(arrive("a", 0.5), FRESH, arrive("a", 0.6)), "it is told again who is in"
    assert told(BEGIN, arrive("a", 9.0), FRESH, OBSERVE), "what comes after the run began"


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([start()], "night: the decision log has no `fresh` before the run"),
        ([{**start(), "settings": {"policy": 1}}], "night: call 0 (start): policy: 1 "),
        (calls_of({"call": "begin"}), "night: call 2 (begin): 'at'"),
    ],
)
def test_what_cannot_be_told_names_the_run(calls: list[Call], said: str) -> None:
    with pytest.raises(RunError) as failure:
        ToldPolicy("night", calls, 9.0).policy_at(9.0)
    assert str(failure.value).startswith(said)
    assert "\n" not in str(failure.value)
