from __future__ import annotations

import pytest
from tests.property.enginestep import Event
from tests.property.hosts import Host, linear_model

from niyama.qos import Importance, Slo
from niyama.scheduling.baselines import DEFAULT_CHUNK
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import Request
from niyama.scheduling.registry import make_policy

LIMITS = Limits(token_budget=4096, free_seqs=64, free_kv_tokens=100_000)
HIGH, NORMAL, LOW = Importance

REQUESTS = [
    # id, arrival, prompt, cached, TTFT, importance, priority, expected output
    ("a", 0.0, 300, 0, 9.0, NORMAL, 0, 10),
    ("b", 1.0, 500, 450, 5.0, LOW, 0, 900),
    ("c", 2.0, 100, 0, 7.0, NORMAL, -1, 500),
    ("d", 3.0, 200, 0, 1.0, HIGH, 9, 90),
]


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("fcfs", "abcd"),
        ("priority", "dcab"),
        ("edf", "dbac"),  # due at 4, 6, 9, 9: the earlier arrival first
        ("srpf", "bcda"),  # 50 (450 are cached), 100, 200, 300
        ("sjf", "dacb"),  # 290, 310, 600, 950
    ],
)
def test_baseline_serves_in_its_order(name: str, order: str) -> None:
    policy = make_policy(name, linear_model())
    for request_id, at, prompt, cached, ttft_s, importance, priority, expected in REQUESTS:
        policy.arrive(
            Request(
                request_id,
                at,
                Slo(ttft_s=ttft_s),
                prompt,
                1000,
                importance=importance,
                priority=priority,
                num_cached_tokens=cached,
                expected_output_tokens=expected,
            ),
            at,
        )
    assert "".join(job.request_id for job in policy.in_order()) == order
    assert policy.plan(3.0, LIMITS).chunks[0].request_id == order[0]


def test_fixed_chunk_is_the_total_of_the_step_whatever_is_due() -> None:
    host = Host(make_policy("fcfs", linear_model(), chunk=100), token_budget=4096)
    for number in range(3):
        host.arrive(Request(f"d{number}", 0.0, Slo(tbt_s=1e-4), 10, 99), 99)
    host.step()
    host.arrive(Request("p", host.now_s, Slo(ttft_s=1e-4), 1000, 9), 1)
    plan = host.policy.plan(host.now_s, LIMITS)
    assert [tuple(chunk) for chunk in plan.chunks] == [("p", 97)]
    assert (plan.budget, plan.is_late) == (100, True)


def test_fixed_chunk_smaller_than_the_decodes_lets_all_of_them_run() -> None:
    host = Host(make_policy("edf", linear_model(), chunk=4), token_budget=4096)
    for number in range(6):
        host.arrive(Request(f"d{number}", 0.0, Slo(), 4, 99), 50)
    for _ in range(8):
        host.step()
    plan = host.policy.plan(host.now_s, LIMITS)
    assert host.policy.ledger.num_decoding > 3
    assert plan.shape.num_decode_tokens == host.policy.ledger.num_decoding
    host.run()
    assert len(host.verdicts) == 6


def test_fixed_chunk_default_and_the_engines_own_budget() -> None:
    policy = make_policy("fcfs", linear_model())
    policy.arrive(Request("p", 0.0, Slo(), 5000, 9), 0.0)
    assert policy.plan(0.0, LIMITS).shape.num_prefill_tokens == DEFAULT_CHUNK == 256
    assert policy.plan(0.0, Limits(128, 64, 100_000)).shape.num_prefill_tokens == 128


@pytest.mark.parametrize("chunk", [0, -5])
def test_fixed_chunk_below_one_is_refused(chunk: int) -> None:
    with pytest.raises(ValueError, match=f"chunk: {chunk} is not allowed; give tokens per step"):
        make_policy("fcfs", linear_model(), chunk=chunk)


@pytest.mark.parametrize(("name", "is_held"), [("srpf", True), ("sjf", True), ("fcfs", False)])
def test_shorter_request_passes_a_started_one_only_where_the_order_says_so(name: str, is_held: bool) -> None:
    host = Host(make_policy(name, linear_model()))
    host.arrive(Request("long", 0.0, Slo(), 768, 9, expected_output_tokens=1), 1)
    host.step()
    host.arrive(Request("short", host.now_s, Slo(), 256, 9, expected_output_tokens=1), 1)
    host.run()
    assert [e.request_id for e in host.events if e.what == "first"] == (
        ["short", "long"] if is_held else ["long", "short"]
    )
    assert (Event(0.078125, "long", "hold") in host.events) is is_held
