from __future__ import annotations

import pytest
from tests.property.hosts import Host, linear_model

from niyama.qos import Slo
from niyama.scheduling.lawful import lawful
from niyama.scheduling.laws import LawBroken
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import Launch, Plan, Prefill, Request

LIMITS = Limits(512, 8, 10_000)


class Greedy(NiyamaPolicy):
    """Plans more tokens than the engine takes."""

    def plan(self, now_s: float, limits: Limits) -> Plan:
        return super().plan(now_s, Limits(limits.token_budget * 2, limits.free_seqs, limits.free_kv_tokens))


class Forgetful(NiyamaPolicy):
    """Loses a request from its order when a step begins."""

    def begin(self, launch: Launch) -> None:
        super().begin(launch)
        self.backlog.discard("r0")


def request(name: str, num_tokens: int) -> Request:
    return Request(name, 0.0, Slo(ttft_s=60.0), num_tokens, 16)


def test_plan_beyond_the_budget_breaks_a_law() -> None:
    policy = lawful(Greedy(linear_model(fixed_s=1 / 4)))
    policy.arrive(request("r0", 900), 0.0)
    with pytest.raises(LawBroken, match=r"^L2: 900 > 512"):
        policy.plan(0.0, LIMITS)


def test_lost_request_breaks_a_law() -> None:
    policy = lawful(Forgetful(linear_model()))
    policy.arrive(request("r0", 900), 0.0)
    plan = policy.plan(0.0, LIMITS)
    launch = Launch(0.0, [Prefill("r0", 512, 512, 388)], plan.shape)
    with pytest.raises(LawBroken, match=r"^L1: in order \[\], to prefill \['r0'\]"):
        policy.begin(launch)


def test_lawful_policy_decides_as_it_did() -> None:
    hosts = [Host(make(NiyamaPolicy(linear_model()))) for make in (lambda policy: policy, lawful)]
    for host in hosts:
        for number in range(8):
            host.arrive(request(f"r{number}", 100 + 90 * number), 5)
        host.run()
    decided = [[(p.chunks, p.held, p.shape, p.predicted_s, p.slack_s) for p in h.plans] for h in hosts]
    assert decided[0] == decided[1]
    assert len(hosts[0].plans) > 10
