"""With steps in flight the policy plans for when its step will start, as far as that is known."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.engine.rig import Rig
from tests.engine.workload import asks

from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Plan
from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine

PREDICTED_S = 100.0


class _Slow:
    """Predicts steps that take far longer than they do, and never learns."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict_s(self, shape: BatchShape) -> float:
        return PREDICTED_S


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
def test_predictions_of_past_steps_do_not_add_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, pipelined: bool
) -> None:
    ahead_s: list[float] = []

    class Watched(NiyamaPolicy):
        def plan(self, now_s: float, limits: Limits) -> Plan:
            ahead_s.append(now_s - time.monotonic())
            return super().plan(now_s, limits)

    monkeypatch.setitem(POLICIES, "niyama", lambda model, anchor, chunk: Watched(_Slow(model), anchor))
    rig.use(policy="niyama", pipelined=pipelined)
    rig.run(asks(6, prompts=(20, 60), outputs=(10, 20)))
    assert len(ahead_s) > 10
    assert max(ahead_s) <= PREDICTED_S
    assert (max(ahead_s) > PREDICTED_S / 2) == pipelined
