"""A policy that fails costs its steps the plan, and nothing else."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
from tests.engine.policies import faulty, senseless
from tests.engine.rig import Rig
from tests.engine.traces import mentions, read_step_log
from tests.engine.workload import asks

from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine

METHODS = ["plan", "begin", "observe", "arrive", "depart"]
WORKLOAD = asks(12, prompts=(20, 700), outputs=(5, 20))


def _failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("method", METHODS)
def test_one_failure_is_logged_once_and_recovered_from(
    rig: Rig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    pipelined: bool,
) -> None:
    expected = rig.expected(WORKLOAD)
    monkeypatch.setitem(POLICIES, "faulty", faulty(method, lambda call: call == 4))
    log = tmp_path / "steps.jsonl"
    scheduler = rig.use(policy="faulty", step_log=str(log), pipelined=pipelined)
    assert rig.run(WORKLOAD) == expected
    assert _failures(caplog) == [f"Niyama: the policy failed in {method}; vLLM's own order takes over"]
    steps = read_step_log(log)
    num_unplanned = sum(step["is_fallback"] for step in steps)
    assert scheduler("state")["fallback_steps"] == num_unplanned
    assert num_unplanned == 1
    scheduler.niyama.policy.ledger.check()
    assert mentions(scheduler.niyama, rig.seen_ids) == []


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("seed", range(4))
def test_senseless_plans_neither_end_the_engine_nor_stop_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, seed: int, pipelined: bool
) -> None:
    """A policy that is wrong and does not raise."""
    expected = rig.expected(WORKLOAD)
    monkeypatch.setitem(POLICIES, "senseless", senseless(seed))
    scheduler = rig.use(policy="senseless", pipelined=pipelined)
    assert rig.run(WORKLOAD) == expected
    assert mentions(scheduler.niyama, rig.seen_ids) == []


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("method", METHODS)
def test_lasting_failure_leaves_every_step_to_vllm(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    pipelined: bool,
) -> None:
    expected = rig.expected(WORKLOAD)
    monkeypatch.setitem(POLICIES, "faulty", faulty(method, lambda call: True))
    scheduler = rig.use(policy="faulty", pipelined=pipelined)
    assert rig.run(WORKLOAD) == expected
    num_fallbacks = scheduler("state")["fallback_steps"]
    assert scheduler("drain")["events"]["fallback"] == num_fallbacks
    assert 0 < num_fallbacks <= rig.num_steps
    if method == "plan":
        # The last turn of a pipelined engine takes in a step and schedules none.
        assert num_fallbacks == rig.num_steps - pipelined
    # Each try to recover doubles the pause before the next, so the log stays short.
    assert 1 <= len(_failures(caplog)) <= 2 + math.log2(rig.num_steps)
    # The failed policy itself is not told any more; a fresh one takes its place.
    assert mentions(scheduler.niyama, rig.seen_ids, skip={"policy"}) == []
