from __future__ import annotations

import pytest

from niyama.qos import Slo
from niyama.scheduling.ledger import Ledger, Phase
from niyama.scheduling.policy import BatchShape, Launch, Prefill, Request

SHAPE = BatchShape(0, 0)


def ledger_with(*sizes: int, cached: int = 0) -> Ledger:
    ledger = Ledger()
    for number, num_tokens in enumerate(sizes):
        ledger.arrive(Request(f"r{number}", 0.0, Slo(), num_tokens, 99, num_cached_tokens=cached), 10)
    return ledger


def launch(
    ledger: Ledger, *prefills: Prefill, stalled: tuple[str, ...] = (), preempted: tuple[str, ...] = ()
) -> list[str]:
    done = ledger.begin(Launch(0.0, prefills, SHAPE, stalled, preempted))
    ledger.check()
    return [job.request_id for job in done]


def test_arrive_twice_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="request_id: 'r0' has arrived already"):
        ledger_with(5).arrive(Request("r0", 0.0, Slo(), 5, 9), 1)


def test_arrive_whole_prompt_cached_leaves_one_token_to_compute() -> None:
    job = ledger_with(5, cached=5).jobs["r0"]
    assert (job.computed, job.remaining) == (4, 1)


def test_prefill_in_chunks_is_started_until_it_is_done() -> None:
    ledger = ledger_with(10)
    assert launch(ledger, Prefill("r0", 6, 6, 4)) == []
    assert list(ledger.started) == ["r0"]
    assert launch(ledger, Prefill("r0", 4, 10, 0)) == ["r0"]
    assert not ledger.started
    assert ledger.jobs["r0"].phase is Phase.DECODING
    assert ledger.num_output_tokens(ledger.jobs["r0"]) == 1


def test_decodes_each_launch_counts_a_token_and_its_context() -> None:
    ledger = ledger_with(10, 20)
    launch(ledger, Prefill("r0", 10, 10, 0))
    launch(ledger, Prefill("r1", 20, 20, 0))
    launch(ledger)
    assert [ledger.num_output_tokens(job) for job in ledger.jobs.values()] == [3, 2]
    assert ledger.decode_shape() == BatchShape(0, 2, 12 + 21)
    assert ledger.decode_shape(4).num_decode_tokens == 8


def test_stalled_decode_gets_no_token() -> None:
    ledger = ledger_with(10)
    launch(ledger, Prefill("r0", 10, 10, 0))
    launch(ledger, stalled=("r0",))
    assert ledger.num_output_tokens(ledger.jobs["r0"]) == 1
    assert ledger.decode_shape().decode_context == 10


def test_correct_speculation_counts_its_tokens() -> None:
    ledger = ledger_with(10)
    launch(ledger, Prefill("r0", 10, 10, 0))
    launch(ledger)
    ledger.correct("r0", 3)
    ledger.correct("stranger", 3)
    ledger.check()
    assert ledger.num_output_tokens(ledger.jobs["r0"]) == 5


def test_preempted_decode_has_prompt_and_answer_to_compute_again() -> None:
    ledger = ledger_with(10)
    launch(ledger, Prefill("r0", 10, 10, 0))
    launch(ledger)
    launch(ledger, preempted=("r0",))
    job = ledger.jobs["r0"]
    assert (job.phase, job.computed, job.remaining) == (Phase.WAITING, 0, 12)
    launch(ledger, Prefill("r0", 12, 12, 0))
    assert ledger.num_output_tokens(job) == 3
    assert ledger.decode_shape().decode_context == 12


def test_preempted_prefill_starts_over() -> None:
    ledger = ledger_with(10)
    launch(ledger, Prefill("r0", 6, 6, 4))
    launch(ledger, preempted=("r0",))
    assert not ledger.started
    assert ledger.jobs["r0"].remaining == 10


def test_depart_any_phase_leaves_no_trace() -> None:
    ledger = ledger_with(10, 10, 10)
    launch(ledger, Prefill("r0", 10, 10, 0), Prefill("r1", 4, 4, 6))
    departed = [ledger.depart(request_id) for request_id in ("r0", "r1", "r2", "r2")]
    ledger.check()
    assert [job.num_emitted if job else None for job in departed] == [1, 0, 0, None]
    assert not ledger.jobs
    assert ledger.decode_shape() == BatchShape(0, 0, 0)


def test_begin_names_nobody_knows_are_passed_over() -> None:
    ledger = ledger_with(10)
    assert launch(ledger, Prefill("gone", 5, 5, 5), stalled=("gone",), preempted=("gone",)) == []
    assert set(ledger.jobs) == {"r0"}
