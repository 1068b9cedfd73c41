"""Waiting requests that vLLM cannot start, or that need less than they seem to, cost nobody else a step."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from tests.engine.rig import Ask, Rig, name_of
from tests.engine.workload import prompt

pytestmark = pytest.mark.engine

MANY = 12
"""More than the plan offers behind its chunks."""


def decoding(rig: Rig, name: str = "decoding", **options: Any) -> Any:
    """Return a request that decodes for long."""
    rig.submit(Ask(name, prompt(20, seed=99), max_tokens=1500, qos_class="background", **options))
    while name not in rig.outputs:
        rig.step()
    return rig.request(name)


def refuse(scheduler: Any, monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    """Let vLLM find some requests not ready, as if their grammars compiled."""
    is_ready = scheduler._handle_blocked_waiting_request

    def handle(request: Any) -> bool:
        return name_of(request.request_id) not in names and bool(is_ready(request))

    monkeypatch.setattr(scheduler, "_handle_blocked_waiting_request", handle)


def test_requests_that_are_not_ready_keep_nobody_else_waiting(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = rig.use(policy="niyama")
    blocked = {f"blocked{number}" for number in range(MANY)}
    refuse(scheduler, monkeypatch, blocked)
    decoding(rig)
    for name in sorted(blocked):
        rig.submit(Ask(name, prompt(100, seed=len(name)), max_tokens=2))
    others = [f"other{number}" for number in range(5)]
    for number, name in enumerate(others):
        rig.submit(Ask(name, prompt(700, seed=number), max_tokens=2, qos_class="batch"))
    before = rig.num_steps
    while not set(others) <= rig.tokens().keys():
        assert rig.num_steps - before < 60, "whom vLLM passes over stands in the way"
        rig.step()
    assert not blocked & rig.outputs.keys()
    assert scheduler("state")["fallback_steps"] == 0
    waited = sorted(blocked)
    blocked.clear()
    before = rig.num_steps
    while not set(waited) <= rig.tokens().keys():
        assert rig.num_steps - before < 400, "they are not tried again"
        rig.step()
    rig.abort("decoding")
    rig.drain()


def test_adapters_beyond_the_slots_wait_and_the_others_do_not(rig: Rig) -> None:
    from vllm.lora.request import LoRARequest

    scheduler = rig.use(policy="niyama")
    scheduler.lora_config = SimpleNamespace(max_loras=2)

    def submit(name: str, adapter: int, num_tokens: int, max_tokens: int = 3) -> None:
        rig.submit(Ask(name, prompt(num_tokens, seed=adapter), max_tokens=max_tokens))
        if adapter:
            rig.request(name).lora_request = LoRARequest(f"adapter{adapter}", adapter, "/nowhere")

    submit("first", 1, 30, 1200)
    while "first" not in rig.outputs:
        rig.step()
    for number in range(MANY):
        submit(f"adapted{number}", 2 + number % 4, 900)
        submit(f"base{number}", 0, 60)
    while not all(f"base{number}" in rig.tokens() for number in range(MANY)):
        assert rig.num_steps < 200
        rig.step()
        running = {r.lora_request.lora_int_id for r in scheduler.running if r.lora_request}
        assert len(running) <= 2
    while not all(f"adapted{number}" in rig.tokens() for number in range(MANY)):
        assert rig.num_steps < 800
        rig.step()
        running = {r.lora_request.lora_int_id for r in scheduler.running if r.lora_request}
        assert len(running) <= 2
    assert scheduler("state")["fallback_steps"] == 0
    rig.abort("first")
    rig.drain()


def test_session_goes_on_with_its_next_part_beside_others(rig: Rig) -> None:
    from vllm import SamplingParams
    from vllm.v1.request import Request

    scheduler = rig.use(policy="niyama")
    decoding(rig)
    rig.submit(Ask("session", prompt(50, seed=1), max_tokens=3))
    session = rig.request("session")
    session.resumable, session.streaming_queue = True, deque()
    scheduler.niyama._sessions.add(session.request_id)

    def part(number: int, *, is_last: bool = False) -> Any:
        params = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
        tokens = prompt(40, seed=number)
        return Request(session.request_id, tokens, params, None, resumable=not is_last)

    for number in range(2, 5):
        before = rig.num_steps
        while session.status.name != "WAITING_FOR_STREAMING_REQ":
            assert rig.num_steps - before < 100, f"part {number} does not run"
            rig.step()
        for _ in range(5):
            rig.step()
        assert scheduler("state")["num_waiting"] == 1
        num_prompt_tokens = session.num_prompt_tokens
        scheduler.add_request(part(number))
        assert session.num_prompt_tokens >= num_prompt_tokens + 40
    while session.status.name != "WAITING_FOR_STREAMING_REQ":
        rig.step()
    scheduler.add_request(part(9, is_last=True))
    rig.step()
    assert session.request_id not in scheduler.requests
    assert scheduler("state")["fallback_steps"] == 0
    assert scheduler("state")["classes"]["interactive"]["aborted"] == 0
    rig.abort("decoding", "session")
    rig.drain()


def test_request_that_cannot_be_read_is_served_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = rig.use(policy="niyama")
    monkeypatch.setattr(
        scheduler.niyama._prefix, "watch", lambda request: (_ for _ in ()).throw(RuntimeError("no hashes"))
    )
    rig.submit(Ask("odd", prompt(60), max_tokens=3))
    for number in range(3):
        rig.submit(Ask(f"r{number}", prompt(60, seed=number), max_tokens=3))
    rig.drain()
    assert rig.tokens().keys() == {"odd", "r0", "r1", "r2"}
    assert scheduler("state")["fallback_steps"] >= 1


def test_failure_while_a_request_is_forgotten_does_not_reach_the_engine(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = rig.use(policy="niyama")
    monkeypatch.setattr(scheduler.niyama.books, "end", lambda *args, **kwargs: 1 / 0)
    for number in range(3):
        rig.submit(Ask(f"r{number}", prompt(60, seed=number), max_tokens=3))
    rig.drain()
    assert len(rig.tokens()) == 3


def test_failure_while_sessions_are_looked_at_does_not_reach_the_engine(rig: Rig) -> None:
    scheduler = rig.use(policy="niyama")
    scheduler.niyama._sessions.add("nobody knows it")
    rig.submit(Ask("r", prompt(60), max_tokens=3))
    rig.drain()
    assert len(rig.tokens()) == 1
    assert scheduler("state")["fallback_steps"] >= 1


def test_shared_prompt_that_others_hold_needs_no_room(rig: Rig) -> None:
    """600 tokens of KV for all: a prompt of 400 fits once, and its second half many times."""
    scheduler = rig.use(policy="niyama", num_blocks=26)
    shared = prompt(480, seed=5)
    rig.submit(Ask("first", [*shared, *prompt(20, seed=1)], max_tokens=60))
    while "first" not in rig.outputs:
        rig.step()
    rig.submit(Ask("second", [*shared, *prompt(25, seed=2)], max_tokens=3))
    before = rig.num_steps
    while "second" not in rig.tokens():
        assert rig.num_steps - before < 20, "it waits for KV that it need not have"
        rig.step()
    assert "first" not in rig.tokens()
    rig.drain()
    assert scheduler("state")["fallback_steps"] == 0


def test_those_who_wait_for_the_same_prompt_count_it_once(rig: Rig) -> None:
    scheduler = rig.use(policy="niyama")
    shared = prompt(1200, seed=6)
    for number in range(6):
        rig.submit(Ask(f"r{number}", [*shared, *prompt(30, seed=number)], max_tokens=2))
    jobs = scheduler.niyama.policy.ledger.jobs
    assert sum(job.remaining for job in jobs.values()) == 6 * 1230
    rig.step()
    first_chunk = next(job.computed for job in jobs.values() if job.computed)
    num_cached = first_chunk // 32 * 32
    assert num_cached > 0
    assert sorted(job.computed for job in jobs.values()) == [*[num_cached] * 5, first_chunk]
    rig.drain()
    assert len(rig.tokens()) == 6
    assert scheduler.niyama._prefix._watched == {}
    assert scheduler.niyama._prefix._found == {}
