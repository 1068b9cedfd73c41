"""A small engine and its requests, for scenarios whose every event is asserted.

The engine takes 1/8 s per step plus 1/512 s per prefill token, so a full step of 448 tokens takes
1 s; decodes cost nothing beyond the step.
"""

from __future__ import annotations

import math

from tests.property.hosts import Host, linear_model

from niyama.qos import Importance, Slo
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Request


class Hurried(NiyamaPolicy):
    """Steps are as long as they may be, whatever the load: scenarios that say when who is served."""

    def _calm_s(self, now_s: float, decodes: BatchShape) -> float:
        return math.inf


def engine(kind: type[NiyamaPolicy] = Hurried) -> Host:
    model = linear_model(fixed_s=1 / 8, token_s=1 / 512, decode_s=0.0)
    return Host(kind(model), token_budget=448)


def ask(
    host: Host,
    request_id: str,
    slo: Slo,
    num_prompt_tokens: int = 448,
    importance: Importance = Importance.NORMAL,
    *,
    num_output: int = 1,
    expected: int | None = None,
) -> None:
    request = Request(
        request_id,
        host.now_s,
        slo,
        num_prompt_tokens,
        max_tokens=1000,
        importance=importance,
        expected_output_tokens=expected,
    )
    host.arrive(request, num_output)
