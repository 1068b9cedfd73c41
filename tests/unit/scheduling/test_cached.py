"""A waiting request of which more is cached than when it arrived is less work from then on."""

from __future__ import annotations

import pytest
from tests.property.hosts import linear_model

from niyama.qos import Slo
from niyama.scheduling.ledger import Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Launch, Prefill, Request

MODEL = linear_model(fixed_s=0.01, token_s=1e-4, decode_s=0.0)
LIMITS = Limits(512, 8, 100_000)


def arrived(num_requests: int, *, ttft_s: float = 6.0, num_tokens: int = 20_100) -> NiyamaPolicy:
    policy = NiyamaPolicy(MODEL)
    for number in range(num_requests):
        policy.arrive(Request(f"r{number}", 0.0, Slo(ttft_s=ttft_s), num_tokens, 8), 0.0)
    return policy


def test_cached_tokens_leave_the_rest_to_do() -> None:
    policy = arrived(1)
    job = policy.ledger.jobs["r0"]
    policy.cached("r0", 20_000, 0.1)
    assert (job.computed, job.remaining) == (20_000, 100)
    policy.cached("r0", 16, 0.1)
    assert (job.computed, job.remaining) == (20_000, 100), "less than was known changes nothing"
    policy.cached("r0", 50_000, 0.1)
    assert job.remaining == 1, "the last token of a prompt is always computed"
    policy.cached("nobody", 16, 0.1)


def test_cached_tokens_of_a_request_that_runs_are_its_own() -> None:
    policy = arrived(1)
    policy.begin(Launch(0.0, [Prefill("r0", 512, 512, 19_588)], BatchShape(512, 0)))
    policy.cached("r0", 20_000, 0.1)
    job = policy.ledger.jobs["r0"]
    assert (job.phase, job.computed) == (Phase.PREFILLING, 512)


def test_a_crowd_with_one_prompt_is_not_set_aside_once_it_is_cached() -> None:
    policy = arrived(60)
    for _ in range(100):
        policy.plan(0.0, LIMITS)
    assert sum(job.relegated for job in policy.ledger.jobs.values()) > 40
    for number in range(60):
        policy.cached(f"r{number}", 20_000, 0.0)
    for _ in range(100):
        policy.plan(0.0, LIMITS)
    assert not any(job.relegated for job in policy.ledger.jobs.values())


def test_load_falls_by_what_need_not_be_computed() -> None:
    policy, small = arrived(20), arrived(20, num_tokens=100)
    for number in range(20):
        policy.cached(f"r{number}", 20_000, 0.0)
    assert policy.load.share(1.0) == pytest.approx(small.load.share(1.0))
