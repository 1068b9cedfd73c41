"""The decision log of a real engine, made again offline, gives the same plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.engine.rig import Rig
from tests.engine.workload import TIGHT_BOOK, asks

from niyama.bench.decisions import read_calls
from niyama.bench.parity import Parity, check_parity
from niyama.bench.serverlog import ServerLog

pytestmark = pytest.mark.engine


def made_again(rig: Rig, log: Path, **workload: Any) -> Parity:
    tokens = rig.run(asks(30, classes=tuple(TIGHT_BOOK["classes"]), **workload))
    rig.scheduler.shutdown()
    calls = list(read_calls(log))
    found = check_parity(calls)
    assert found.num_steps > 50
    assert found.num_same == found.num_plans, found.differences
    seen = {i.rpartition("-")[0]: one for i, one in ServerLog.of(calls).requests.items()}
    assert {name: len(list(one.steps_of_tokens())) for name, one in seen.items()} == {
        name: len(answer) for name, answer in tokens.items()
    }
    return found


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("policy", ["niyama", "paper", "edf"])
def test_the_engine_decides_as_the_core_does_offline(
    rig: Rig, tmp_path: Path, policy: str, pipelined: bool
) -> None:
    log = tmp_path / "decisions.jsonl"
    rig.use(policy=policy, pipelined=pipelined, decision_log=str(log), qos=TIGHT_BOOK)
    assert made_again(rig, log, prompts=(20, 700), outputs=(10, 40)).num_unplanned == 0


def test_what_a_small_cache_makes_of_a_plan_is_counted(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    rig.use(num_blocks=24, decision_log=str(log), qos=TIGHT_BOOK)
    found = made_again(rig, log, prompts=(40, 100), outputs=(60, 90))
    assert found.causes["preempted"] > 0
    assert found.num_realised_otherwise > 0


def test_the_log_is_off_unless_it_is_asked_for(rig: Rig) -> None:
    scheduler = rig.use(check_laws=False)
    assert type(scheduler.niyama.policy).__name__ == "NiyamaPolicy"
