"""The laws on a real engine: a broken one is found, named and counted, and harms nobody."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tests.engine.rig import Rig
from tests.engine.workload import asks

from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import Launch, Plan
from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine

WORKLOAD = asks(8, prompts=(20, 700), outputs=(5, 20))


class Greedy(NiyamaPolicy):
    """Says of a step that it is in time when it is not planned for that shape."""

    def plan(self, now_s: float, limits: Limits) -> Plan:
        plan = super().plan(now_s, limits)
        plan.predicted_s *= 2
        return plan


class Miscounting(NiyamaPolicy):
    """Believes that a prefill has come further than it has; its own sums are right."""

    def begin(self, launch: Launch) -> None:
        super().begin(launch)
        for job in self.ledger.started.values():
            job.computed += 1


@pytest.mark.parametrize(
    ("kind", "said"), [(Greedy, "LawBroken: L7: "), (Miscounting, "LawBroken: L1: ")], ids=["plan", "books"]
)
def test_broken_law_is_named_and_the_requests_are_served(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[NiyamaPolicy],
    said: str,
) -> None:
    expected = rig.expected(WORKLOAD)
    made: Any = lambda model, *_: kind(model)  # noqa: E731
    monkeypatch.setitem(POLICIES, "unlawful", made)
    scheduler = rig.use(policy="unlawful", check_laws=True)
    with caplog.at_level(logging.ERROR):
        assert rig.run(WORKLOAD) == expected
    assert scheduler("state")["fallback_steps"] > 0
    assert said in caplog.text


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("num_blocks", [None, 70], ids=["roomy", "tight"])
def test_policy_keeps_the_laws_while_clients_leave(rig: Rig, pipelined: bool, num_blocks: int | None) -> None:
    scheduler = rig.use(check_laws=True, pipelined=pipelined, num_blocks=num_blocks)
    workload = asks(24, prompts=(20, 700), outputs=(5, 60), seed=4)

    def leave(step: int) -> None:
        if step % 3 == 0 and step // 3 < len(workload):
            rig.abort(workload[step // 3].name)

    rig.run(workload, at_step=leave)
    assert scheduler("state")["fallback_steps"] == 0
    assert not scheduler.requests
    assert not scheduler.niyama.policy.ledger.jobs
