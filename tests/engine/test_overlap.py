"""With steps in flight the model learns runs, and prefill waits where its launch would make a token late."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from tests.engine.rig import Rig
from tests.engine.workload import asks

from niyama.latency.overlap import Overlap
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import Plan, StepOutcome
from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine

BOOK: dict[str, Any] = {"default": "chat", "classes": {"chat": {"ttft": "5s", "tbt": "1s"}}}
LAUNCH_S = 100.0


class _Watched(NiyamaPolicy):
    outcomes: list[StepOutcome]
    plans: list[tuple[float, Limits, Plan]]

    def plan(self, now_s: float, limits: Limits) -> Plan:
        plan = super().plan(now_s, limits)
        due_at = self.pacer.tightest(self.ledger.num_launches - 1)
        self.plans.append((due_at - now_s, limits, plan))
        return plan

    def observe(self, outcome: StepOutcome) -> None:
        self.outcomes.append(outcome)
        super().observe(outcome)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[_Watched]:
    _Watched.outcomes, _Watched.plans = [], []
    monkeypatch.setitem(POLICIES, "niyama", lambda model, anchor, chunk: _Watched(model, anchor))
    return _Watched


def _duration_s(outcome: StepOutcome) -> float:
    return outcome.ended_at - outcome.started_at


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
def test_lessons_are_the_time_that_passed(rig: Rig, watched: type[_Watched], pipelined: bool) -> None:
    rig.use(policy="niyama", pipelined=pipelined)
    rig.run(asks(8, prompts=(20, 400), outputs=(6, 20)))
    clean = [outcome for outcome in watched.outcomes if outcome.is_clean]
    learned_s = [
        math.fsum(s for _, s in o.lessons) if o.lessons is not None else _duration_s(o) for o in clean
    ]
    assert math.fsum(learned_s) == pytest.approx(math.fsum(map(_duration_s, clean)))
    assert any(outcome.lessons is not None for outcome in clean) == pipelined


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
def test_prefill_waits_where_its_launch_would_make_a_token_late(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, watched: type[_Watched], pipelined: bool
) -> None:
    monkeypatch.setattr(Overlap, "max_tokens", lambda self, room_s, most: most if room_s > LAUNCH_S else 0)
    rig.use(policy="niyama", pipelined=pipelined, qos=BOOK)
    first, *others = asks(4, prompts=(100, 200), outputs=(20, 40), classes=("chat",))
    rig.submit(first)
    started_at = time.monotonic()
    while first.name not in rig.outputs:
        rig.step()
        assert time.monotonic() - started_at < 60
    for ask in others:
        rig.submit(ask)
    rig.drain()
    held = [plan for _, limits, plan in watched.plans if limits.token_budget == plan.shape.num_decode_tokens]
    assert bool(held) == pipelined
    assert not any(plan.chunks for plan in held)
    assert {ask.name for ask in (first, *others)} <= set(rig.outputs)
