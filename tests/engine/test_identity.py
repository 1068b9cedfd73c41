"""Equal greedy requests give equal tokens, whatever is held, relegated, preempted or reordered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.engine.policies import adversary
from tests.engine.rig import Rig, name_of
from tests.engine.traces import check_step_log, read_step_log
from tests.engine.workload import TIGHT_BOOK, asks

from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine

FEW_BLOCKS = 24
"""KV for 768 tokens: the requests below need several times as much at once."""


def test_answers_depend_on_the_whole_prompt(rig: Rig) -> None:
    """Else equal answers would prove nothing of the KV that they were computed from."""
    workload = asks(8, prompts=(100, 300), outputs=(30, 30), seed=1)
    changed = [dataclasses.replace(ask, prompt=[ask.prompt[0] + 1, *ask.prompt[1:]]) for ask in workload]
    answers, others = rig.expected(workload), rig.expected(changed)
    assert all(answers[ask.name] != others[ask.name] for ask in workload)


def test_plain_requests_match_stock(rig: Rig, tmp_path: Path) -> None:
    workload = asks(24, prompts=(20, 700))
    expected = rig.expected(workload)
    log = tmp_path / "steps.jsonl"
    scheduler = rig.use(step_log=str(log))
    assert rig.run(workload) == expected
    assert len(expected) == 24
    assert scheduler("state")["fallback_steps"] == 0
    steps = read_step_log(log)
    check_step_log(steps)
    assert sum(step["num_prefill_tokens"] for step in steps) == sum(len(ask.prompt) for ask in workload)


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
def test_held_and_relegated_requests_match_stock(rig: Rig, tmp_path: Path, pipelined: bool) -> None:
    workload = asks(30, prompts=(20, 700), outputs=(20, 40), classes=tuple(TIGHT_BOOK["classes"]))
    expected = rig.expected(workload)
    log = tmp_path / "steps.jsonl"
    rig.use(pipelined=pipelined, step_log=str(log), qos=TIGHT_BOOK)
    assert rig.run(workload) == expected
    steps = read_step_log(log)
    check_step_log(steps)
    assert sum(step.get("relegated", 0) for step in steps) > 0
    assert sum(step.get("held", 0) for step in steps) > 0


@pytest.mark.parametrize("scheduling_policy", ["fcfs", "priority"])
def test_less_important_priority_is_preempted_first(rig: Rig, scheduling_policy: str) -> None:
    workload = [
        dataclasses.replace(ask, priority=5 * (number % 2), qos_class="interactive")
        for number, ask in enumerate(asks(8, prompts=(40, 60), outputs=(80, 80), seed=8))
    ]
    expected = rig.expected(workload)
    rig.use(num_blocks=FEW_BLOCKS, scheduling_policy=scheduling_policy)
    preempted: dict[str, int] = {}

    def count(_: int) -> None:
        for request in rig.scheduler.requests.values():
            preempted[name_of(request.request_id)] = request.num_preemptions

    assert rig.run(workload, at_step=count) == expected
    assert sum(preempted[ask.name] for ask in workload if ask.priority > 0) > 0
    assert sum(preempted[ask.name] for ask in workload if ask.priority == 0) == 0


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("scheduling_policy", ["fcfs", "priority"])
def test_preempted_requests_match_stock(rig: Rig, pipelined: bool, scheduling_policy: str) -> None:
    workload = asks(16, prompts=(10, 60), outputs=(60, 120))
    expected = rig.expected(workload)
    scheduler = rig.use(num_blocks=FEW_BLOCKS, pipelined=pipelined, scheduling_policy=scheduling_policy)
    assert rig.run(workload) == expected
    assert scheduler("state")["realised"]["preempted"] > 0
    assert scheduler("state")["fallback_steps"] == 0


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_any_policy_matches_stock(rig: Rig, policy: str) -> None:
    workload = asks(16, prompts=(20, 300), outputs=(20, 60), classes=tuple(TIGHT_BOOK["classes"]), seed=2)
    expected = rig.expected(workload)
    scheduler = rig.use(policy=policy, qos=TIGHT_BOOK, num_blocks=FEW_BLOCKS)
    assert rig.run(workload) == expected
    assert scheduler("state")["policy"] == policy
    assert scheduler("state")["fallback_steps"] == 0


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("num_blocks", [None, FEW_BLOCKS], ids=["roomy", "tight"])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_plans_match_stock(
    rig: Rig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipelined: bool,
    num_blocks: int | None,
    seed: int,
) -> None:
    workload = asks(14, prompts=(20, 300), outputs=(2, 30), seed=seed)
    expected = rig.expected(workload)
    monkeypatch.setitem(POLICIES, "adversary", adversary(seed))
    log = tmp_path / "steps.jsonl"
    settings: dict[str, Any] = {"policy": "adversary", "step_log": str(log)}
    scheduler = rig.use(num_blocks=num_blocks, pipelined=pipelined, **settings)
    assert rig.run(workload) == expected
    state = scheduler("state")
    assert state["fallback_steps"] == 0
    assert state["realised"]["stalled"] > 0
    assert sum(step.get("held", 0) for step in read_step_log(log)) > 0
    scheduler.niyama.policy.ledger.check()
