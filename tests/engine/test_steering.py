"""Passing over a request steers vLLM's own wait, and never makes it shorter."""

from __future__ import annotations

import pytest
from tests.engine.rig import Rig
from tests.engine.workload import asks

from niyama.scheduling.policy import BatchShape, Plan

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("own_wait", [0, 7], ids=["no wait", "a pipeline's wait"])
def test_a_decode_is_passed_over_for_a_step_or_as_long_as_vllm_wants(rig: Rig, own_wait: int) -> None:
    scheduler = rig.use(policy="niyama")
    (ask,) = asks(1, prompts=(20, 30), outputs=(20, 30))
    rig.submit(ask)
    while ask.name not in rig.outputs:
        rig.step()
    (request,) = scheduler.running
    request.next_decode_eligible_step = scheduler.current_step + own_wait
    shape = BatchShape(0, 0)
    plan = Plan(1, [], shape, 0.1, stalled=[request.request_id, "unknown"])
    scheduler.niyama._levers.apply(plan, {}, {request.request_id: request}, {})
    assert request.next_decode_eligible_step == scheduler.current_step + max(2, own_wait)
    scheduler.niyama._levers.release()
    request.next_decode_eligible_step = 0
    rig.drain()
    assert len(rig.tokens()[ask.name]) == ask.max_tokens
