"""Who waits at the gate, for how long, and what a step does meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from tests.property.hosts import Host, linear_model

from niyama.qos import Importance, Slo
from niyama.scheduling.chunking import Filled, fill
from niyama.scheduling.gate import CROWDED_SHARE, GUARD_SHARE, Gate
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Chunk, Request

FAST = Slo(ttft_s=4.0, tbt_s=0.05)
SLOW = Slo(ttft_s=8.0, tbt_s=0.2)
BATCH = Slo(ttlt_s=600.0)
MODEL = linear_model(fixed_s=0.25, token_s=1 / 256, decode_s=0.0)


def job(request_id: str, slo: Slo, num_tokens: int = 100, *, started: int = 0, due_at: float = 4.0) -> Job:
    made = Job(Request(request_id, 0.0, slo, num_tokens + started, 1), 1)
    made.due_at = due_at if slo.is_interactive else 600.0
    if started:
        made.phase = Phase.PREFILLING
        made.computed, made.remaining = started, num_tokens
    return made


# The gate ------------------------------------------------------------------------------------------


def test_gate_stays_shut_until_a_share_of_the_first_ttft_is_left() -> None:
    gate = Gate()
    assert gate.shut_s(0.0, 0.0) == 0.0, "nobody waits"
    gate.wait(job("later", FAST, due_at=9.0))
    gate.wait(job("first", FAST, due_at=7.0))
    assert gate.shut_s(1.0, 0.0) == 7.0 - GUARD_SHARE * 4.0 - 1.0
    assert gate.shut_s(6.5, 0.0) == 0.0
    gate.discard("first")
    assert gate.shut_s(6.5, 0.0) == 9.0 - GUARD_SHARE * 4.0 - 6.5


def test_gate_is_open_while_somebody_reads_at_that_pace_or_a_tighter_one() -> None:
    gate = Gate()
    fast, slow = job("fast", FAST), job("slow", SLOW, due_at=8.0)
    for one in (fast, slow):
        gate.wait(one)
    assert gate.holds(fast)
    assert gate.holds(slow)
    gate.begin(job("reader", SLOW))
    assert gate.holds(fast)
    assert not gate.holds(slow)
    assert gate.shut_s(0.0, 0.0) == 3.0
    gate.begin(job("other", FAST))
    assert not gate.holds(fast)
    assert gate.shut_s(0.0, 0.0) == 0.0
    gate.end("other")
    gate.end("nobody")
    assert gate.shut_s(0.0, 0.0) == 3.0
    gate.end("reader")
    assert gate.pace_s == math.inf


def test_reader_counts_once() -> None:
    gate = Gate()
    reader = job("reader", FAST)
    gate.begin(reader)
    gate.begin(reader)
    gate.end("reader")
    assert gate.pace_s == math.inf


@pytest.mark.parametrize("slo", [BATCH, Slo(), Slo(ttft_s=1.0), Slo(tbt_s=0.05), Slo(ttft_s=1.0, tbt_s=2.0)])
def test_gate_holds_nobody_whose_wait_has_no_end_or_no_use(slo: Slo) -> None:
    gate = Gate()
    gate.wait(job("any", slo))
    assert not gate.holds(job("any", slo))
    assert gate.shut_s(0.0, 0.0) == 0.0


def test_gate_follows_a_deadline_that_moves() -> None:
    gate = Gate()
    one = job("one", FAST, due_at=9.0)
    gate.wait(one)
    one.due_at = 2.0
    gate.wait(one)
    assert gate.shut_s(0.0, 0.0) == 1.0
    one.due_at = 5.0
    gate.wait(one)
    assert gate.shut_s(0.0, 0.0) == 4.0


def test_gate_is_open_while_decodes_alone_take_most_of_the_pace_that_is_waited_for() -> None:
    gate = Gate()
    gate.wait(job("slow", SLOW, due_at=8.0))
    pace_s = next(iter(gate._heaps))
    assert gate.shut_s(0.0, CROWDED_SHARE * pace_s) == 6.0
    assert gate.shut_s(0.0, 1.01 * CROWDED_SHARE * pace_s) == 0.0


def test_gate_forgets_who_is_gone() -> None:
    gate = Gate()
    for number in range(5000):
        gate.wait(job(f"r{number}", FAST, due_at=10.0 + number))
        if number:
            gate.discard(f"r{number}")
    assert sum(map(len, gate._heaps.values())) < 200
    assert gate.shut_s(0.0, 0.0) == 9.0


# A step while it is shut ---------------------------------------------------------------------------


def step(jobs: Sequence[Job], *, limit_s: float = math.inf, tokens: int = 512) -> Filled:
    started = [one for one in jobs if one.phase is Phase.PREFILLING]
    limits = Limits(token_budget=tokens, free_seqs=8, free_kv_tokens=10_000)
    return fill(jobs, lambda: started, BatchShape(0, 0), 0.0, limit_s, limits, MODEL, Gate())


def test_who_is_held_is_computed_but_for_the_last_token_behind_the_others() -> None:
    filled = step([job("read", FAST, 100), job("a", BATCH, 150), job("b", BATCH, 200)])
    assert filled.chunks == [Chunk("a", 150), Chunk("b", 200), Chunk("read", 99)]
    assert filled.shape.num_prefill_tokens == 449


def test_others_run_beside_who_is_held_only_as_a_whole() -> None:
    filled = step([job("read", FAST, 100), job("a", BATCH, 150), job("b", BATCH, 900)])
    assert filled.chunks == [Chunk("a", 150), Chunk("read", 99)]
    assert list(filled.spares) == ["b"]


def test_step_ends_before_the_second_who_is_held() -> None:
    filled = step([job("r1", FAST, 50), job("a", BATCH, 60), job("r2", FAST, 50), job("b", BATCH, 70)])
    assert filled.chunks == [Chunk("a", 60), Chunk("r1", 49)]
    assert list(filled.spares) == ["b"], "who is held is offered nothing"


def test_who_lacks_the_last_token_only_is_passed_over() -> None:
    filled = step([job("ready", FAST, 1, started=99), job("a", BATCH, 900)])
    assert filled.chunks == [Chunk("a", 512)]
    assert step([job("ready", FAST, 1, started=99)]).chunks == []


def test_who_is_held_and_has_begun_ends_the_step() -> None:
    filled = step([job("read", FAST, 100, started=10), job("a", BATCH, 150)])
    assert filled.chunks == [Chunk("read", 99)]


def test_first_token_that_is_held_back_does_not_shorten_the_step() -> None:
    assert step([job("read", FAST, 100, due_at=0.7), job("a", BATCH, 400)]).shape.num_prefill_tokens == 499


# The policy ----------------------------------------------------------------------------------------


def busy_host(load: float = 0.9, anchor: str = "strict", *, keeps_time: bool = True) -> Host:
    """An engine of 1/64 s a step and 1/4096 s a token, of which so much was asked lately."""
    policy = NiyamaPolicy(linear_model(), "paper" if anchor == "paper" else "strict")
    host = Host(policy, num_blocks=16_384, token_budget=1024)
    if keeps_time:
        for _ in range(100):
            policy._stalls.observe(10.0, 10.0)
    work_s = load * 30.0  # the average over a first instant counts as of so many seconds
    policy.load.offer(work_s, work_s, int(Importance.NORMAL), 0.0)
    return host


def ask(host: Host, request_id: str, slo: Slo, num_prompt_tokens: int, num_output: int) -> None:
    host.arrive(Request(request_id, host.now_s, slo, num_prompt_tokens, 1000), num_output)


def host_with_one_who_waits() -> Host:
    """A busy engine a second after `r1` came, with batch work left."""
    host = busy_host()
    ask(host, "batch", BATCH, 40_000, 1)
    ask(host, "r1", FAST, 500, 20)
    while host.now_s < 1.0:
        host.step()
    return host


def first_tokens(host: Host) -> dict[str, float]:
    return {event.request_id: event.at for event in host.events if event.what == "first"}


def test_readers_begin_together_while_others_use_the_time() -> None:
    host = host_with_one_who_waits()
    ask(host, "r2", FAST, 500, 20)
    host.run()
    first = first_tokens(host)
    assert first["r1"] == first["r2"] > 2.0, "the last token of both waits"
    assert first["r1"] <= 4.0


def test_reader_begins_at_once_while_another_reads() -> None:
    host = busy_host()
    ask(host, "r1", FAST, 500, 200)
    while "r1" not in first_tokens(host):
        host.step()
    ask(host, "batch", BATCH, 40_000, 1)
    ask(host, "r2", FAST, 500, 20)
    arrived_at = host.now_s
    host.run()
    assert first_tokens(host)["r2"] < arrived_at + 1.0


@pytest.mark.parametrize(("load", "anchor"), [(0.5, "strict"), (0.9, "paper")])
def test_gate_is_open_with_time_to_spare_and_where_early_tokens_are_worth_it(
    load: float, anchor: str
) -> None:
    host = busy_host(load, anchor)
    ask(host, "batch", BATCH, 8_000, 1)
    ask(host, "r1", FAST, 500, 20)
    host.run()
    assert first_tokens(host)["r1"] < 1.0


def test_gate_is_open_where_steps_stall() -> None:
    host = busy_host(keeps_time=False)
    ask(host, "batch", BATCH, 8_000, 1)
    ask(host, "r1", FAST, 500, 20)
    host.run()
    assert first_tokens(host)["r1"] < 1.0


def test_gate_opens_when_nobody_else_has_work() -> None:
    host = busy_host()
    ask(host, "r1", FAST, 500, 20)
    host.run()
    assert first_tokens(host)["r1"] < 0.5


def test_evicted_reader_reads_no_more_and_goes_on_at_once() -> None:
    host = busy_host()
    policy = host.policy
    assert isinstance(policy, NiyamaPolicy)
    ask(host, "r1", FAST, 500, 200)
    while "r1" not in first_tokens(host):
        host.step()
    assert policy._gate.pace_s < 0.05 + 1e-9
    policy._evict("r1")
    assert policy._gate.pace_s == math.inf


def test_gate_is_open_where_memory_is_short() -> None:
    host = host_with_one_who_waits()
    runs = {
        free: [chunk.request_id for chunk in host.policy.plan(host.now_s, Limits(1024, 8, free)).chunks]
        for free in (499, 498)
    }
    assert runs == {499: ["batch"], 498: ["r1", "batch"]}
