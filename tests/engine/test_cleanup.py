"""Whoever finishes or leaves takes everything along: KV, queue places, and our own notes."""

from __future__ import annotations

import pytest
from tests.engine.policies import adversary
from tests.engine.rig import Ask, Rig
from tests.engine.traces import mentions
from tests.engine.workload import asks, prompt

from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine

LONG = Ask("long", prompt(1500, seed=7), max_tokens=4)
WORKLOAD = asks(16, outputs=(20, 50))
OTHERS = asks(6, outputs=(10, 20), seed=3)


def assert_nothing_left(rig: Rig) -> None:
    rig.drain()
    state = rig.scheduler("state")
    assert state["num_running"] == state["num_waiting"] == 0
    assert state["kv_usage"] == 0
    for name, counts in state["classes"].items():
        live = {key: counts[key] for key in ("queued", "prefilling", "decoding", "held", "relegated")}
        assert not any(live.values()), (name, live)
    rig.scheduler.niyama.policy.ledger.check()
    assert mentions(rig.scheduler.niyama, rig.seen_ids) == []


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("num_blocks", [None, 24], ids=["roomy", "tight"])
@pytest.mark.parametrize("policy", ["niyama", "adversary"])
def test_finished_requests_leave_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, policy: str, num_blocks: int | None, pipelined: bool
) -> None:
    monkeypatch.setitem(POLICIES, "adversary", adversary(5))
    rig.use(policy=policy, num_blocks=num_blocks, pipelined=pipelined)
    assert len(rig.run(WORKLOAD)) == 16
    assert len(rig.seen_ids) == 16
    assert_nothing_left(rig)


def test_abort_in_the_queue_frees_all(rig: Rig) -> None:
    expected = rig.expected(OTHERS)
    rig.use()
    rig.submit(LONG)
    rig.abort("long")
    assert rig.run(OTHERS) == expected
    assert_nothing_left(rig)
    assert rig.scheduler("state")["classes"]["interactive"]["aborted"] == 1


def test_abort_in_prefill_frees_all(rig: Rig) -> None:
    expected = rig.expected(OTHERS)
    rig.use()
    rig.submit(LONG)
    rig.step()
    assert 0 < rig.request("long").num_computed_tokens < len(LONG.prompt)
    assert rig.scheduler("state")["kv_usage"] > 0
    rig.abort("long")
    assert rig.run(OTHERS) == expected
    assert_nothing_left(rig)


def test_abort_in_decode_frees_all(rig: Rig) -> None:
    expected = rig.expected(OTHERS)
    rig.use()
    rig.submit(Ask("talker", prompt(30), max_tokens=500))
    while len(rig.outputs.get("talker", _Silence).outputs[0].token_ids) < 3:
        rig.step()
    rig.abort("talker")
    assert rig.run(OTHERS) == expected
    assert_nothing_left(rig)


class _Silence:
    """The output of a request that has said nothing yet."""

    class _Output:
        token_ids: tuple[int, ...] = ()

    outputs = (_Output,)


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
def test_aborts_at_any_step_leave_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch, pipelined: bool) -> None:
    workload = asks(20, prompts=(20, 400), outputs=(10, 30), seed=9)
    expected = rig.expected(workload)
    doomed = {ask.name for ask in workload[::2]}

    def abort_one(step: int) -> None:
        if step % 3 == 1 and step // 3 < len(workload) // 2:
            rig.abort(workload[2 * (step // 3)].name)

    monkeypatch.setitem(POLICIES, "adversary", adversary(2))
    rig.use(policy="adversary", num_blocks=32, pipelined=pipelined)
    tokens = rig.run(workload, at_step=abort_one)
    survivors = {name: words for name, words in expected.items() if name not in doomed}
    assert {name: words for name, words in tokens.items() if name not in doomed} == survivors
    assert_nothing_left(rig)


def test_reset_of_the_prefix_cache_loses_nobody(rig: Rig) -> None:
    """It preempts all running requests between two steps (vLLM's /reset_prefix_cache)."""
    expected = rig.expected(WORKLOAD)
    rig.use()

    def reset(step: int) -> None:
        if step == 12:
            assert rig.scheduler.running
            assert rig.scheduler.reset_prefix_cache(reset_running_requests=True)
            assert not rig.scheduler.running

    assert rig.run(WORKLOAD, at_step=reset) == expected
    assert rig.scheduler("state")["realised"]["preempted"] > 0
    assert_nothing_left(rig)
