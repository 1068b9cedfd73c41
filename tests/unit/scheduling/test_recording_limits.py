"""What an engine says of single requests is recorded as far as the plan asked for it."""

from __future__ import annotations

import json
from typing import Any

from tests.property.hosts import linear_model

from niyama.qos import Slo
from niyama.scheduling.limits import Limits, SharedKv
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import Request
from niyama.scheduling.recording import Recorded, plan_to_mapping, tell

MODEL = linear_model(fixed_s=0.01, token_s=1e-4, decode_s=0.0)


class _Held(SharedKv):
    def num_tokens(self, request_id: str) -> int:
        return 400


def test_plan_with_blocked_requests_and_shared_kv_is_made_again() -> None:
    calls: list[dict[str, Any]] = []
    policy = Recorded(NiyamaPolicy(MODEL), calls.append)
    for number, name in enumerate(("blocked", "shared", "plain")):
        policy.arrive(
            Request(name, 0.0, Slo(ttft_s=1.0 + number), 600, 4, num_cached_tokens=500 * (name == "shared")),
            0.0,
        )
    policy.cached("plain", 64, 0.0)
    limits = Limits(512, 8, 650, blocked={"blocked", "never asked for"}, shared=_Held())
    plan = policy.plan(0.1, limits)
    assert [chunk.request_id for chunk in plan.chunks] == ["shared"]
    calls = [json.loads(json.dumps(call)) for call in calls]
    assert calls[-1]["limits"] == [512, 8, 650, 1, ["blocked"], {"shared": 400}]
    again = NiyamaPolicy(MODEL)
    made = [tell(again, call) for call in calls if call["call"] != "fresh"]
    assert made[-1] is not None
    assert plan_to_mapping(made[-1]) == plan_to_mapping(plan)


def test_limits_without_either_are_numbers_as_before() -> None:
    calls: list[dict[str, Any]] = []
    policy = Recorded(NiyamaPolicy(MODEL), calls.append)
    policy.arrive(Request("r", 0.0, Slo(), 60, 4), 0.0)
    policy.plan(0.0, Limits(512, 8, 650))
    assert calls[-1]["limits"] == [512, 8, 650, 1]
