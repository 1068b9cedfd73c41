from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from tests.property.hosts import linear_model

from niyama.qos import Slo
from niyama.scheduling.chunking import NUM_SPARES, Filled, fill
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.limits import Limits, SharedKv
from niyama.scheduling.policy import BatchShape, Chunk, Request

MODEL = linear_model(fixed_s=0.25, token_s=1 / 256, decode_s=0.0)
ROOMY = Limits(token_budget=512, free_seqs=8, free_kv_tokens=10_000)


def job(request_id: str, num_tokens: int, *, due_at: float = 1e9, started: int = 0, cached: int = 0) -> Job:
    prompt = num_tokens + started + cached
    made = Job(Request(request_id, 0.0, Slo(), prompt, 1, num_cached_tokens=cached), 1)
    made.due_at = due_at
    if started:
        made.phase = Phase.PREFILLING
        made.computed, made.remaining = started, num_tokens
    return made


def run(
    jobs: Sequence[Job],
    limits: Limits = ROOMY,
    *,
    limit_s: float | None = math.inf,
    num_decodes: int = 0,
    now_s: float = 0.0,
) -> Filled:
    started = [j for j in jobs if j.phase is Phase.PREFILLING]
    return fill(jobs, lambda: started, BatchShape(0, num_decodes), now_s, limit_s, limits, MODEL)


def test_fill_without_decodes_uses_the_whole_budget() -> None:
    filled = run([job("a", 300), job("b", 300), job("c", 300)])
    assert filled.chunks == [Chunk("a", 300), Chunk("b", 212)]
    assert filled.shape.num_prefill_tokens == 512
    assert list(filled.spares) == ["c"]


def test_fill_decodes_take_their_part_of_the_budget() -> None:
    assert run([job("a", 600)], num_decodes=100).chunks == [Chunk("a", 412)]


def test_fill_more_decodes_than_budget_leaves_no_prefill() -> None:
    filled = run([job("a", 600)], num_decodes=600)
    assert (filled.shape, filled.chunks) == (BatchShape(0, 600), [])


@pytest.mark.parametrize(("limit_s", "num_tokens"), [(0.25, 0), (0.5, 64), (1.25, 256), (99.0, 512)])
def test_fill_chunk_is_what_fits_the_time(limit_s: float, num_tokens: int) -> None:
    assert run([job("a", 9999)], limit_s=limit_s, num_decodes=0).shape.num_prefill_tokens == num_tokens


def test_fill_no_time_limit_ignores_what_is_due() -> None:
    jobs = [job("a", 100, due_at=0.7), job("b", 9000)]
    assert run(jobs, limit_s=None).shape.num_prefill_tokens == 512


def test_fill_does_not_delay_the_first_token_that_it_completes() -> None:
    """`a` alone ends at 0.64 and is due at 1.5: 28 tokens more may ride along until half of that."""
    filled = run([job("a", 100, due_at=1.5), job("b", 9000)])
    assert filled.chunks == [Chunk("a", 100), Chunk("b", 28)]
    assert run([job("a", 100, due_at=1.25), job("b", 9000)]).chunks == [Chunk("a", 100)]


def test_fill_first_token_that_is_late_anyway_does_not_hold_others_back() -> None:
    filled = run([job("a", 100, due_at=0.75), job("b", 9000)], now_s=1.0)
    assert filled.shape.num_prefill_tokens == 512


def test_fill_starts_no_more_than_there_are_seats() -> None:
    filled = run([job("a", 10), job("b", 10), job("c", 10)], Limits(512, 2, 10_000))
    assert [chunk.request_id for chunk in filled.chunks] == ["a", "b"]


def test_fill_starts_nobody_whose_whole_prompt_does_not_fit_the_memory() -> None:
    filled = run([job("a", 400), job("b", 200), job("c", 5)], Limits(512, 8, 500))
    assert filled.chunks == [Chunk("a", 400)]


def test_fill_counts_cached_blocks_as_taken_from_the_free_ones() -> None:
    limits = Limits(512, 8, 500)
    assert run([job("a", 300), job("b", 100, cached=200)], limits).chunks == [Chunk("a", 300)]
    assert len(run([job("a", 300), job("b", 100, cached=100)], limits).chunks) == 2


def test_fill_blocked_request_lets_those_that_have_begun_pass_and_nobody_else() -> None:
    jobs = [job("big", 900), job("small", 10), job("begun", 50, started=50)]
    filled = run(jobs, Limits(512, 8, 100))
    assert filled.chunks == [Chunk("begun", 50)]
    assert run(jobs, Limits(512, 0, 10_000)).chunks == [Chunk("begun", 50)]


def test_fill_blocked_request_on_an_idle_engine_is_tried() -> None:
    assert run([job("big", 900)], Limits(512, 8, 100)).chunks == [Chunk("big", 512)]
    assert run([job("big", 900)], Limits(512, 8, 100), num_decodes=1).chunks == []


class _Held(SharedKv):
    def num_tokens(self, request_id: str) -> int:
        return {"b": 150}.get(request_id, 0)


def test_fill_cached_blocks_that_others_hold_take_no_room() -> None:
    limits = Limits(512, 8, 500, shared=_Held())
    assert run([job("b", 100, cached=450)], limits).chunks == [Chunk("b", 100)]
    assert run([job("c", 100, cached=450)], limits, num_decodes=1).chunks == []
    both = [job("a", 300), job("b", 100, cached=250)]
    assert len(run(both, limits).chunks) == 2
    assert len(run(both, Limits(512, 8, 499, shared=_Held())).chunks) == 1


def test_fill_request_that_the_engine_cannot_start_lets_all_others_pass() -> None:
    limits = Limits(512, 8, 10_000, blocked={"a", "d"})
    filled = run([job("a", 600), job("b", 100), job("c", 300, started=5), job("d", 9), job("e", 600)], limits)
    assert filled.chunks == [Chunk("b", 100), Chunk("c", 300), Chunk("e", 112)]
    assert filled.is_blocked
    spares = run([job("b", 600), job("a", 600), job("e", 600)], limits).spares
    assert list(spares) == ["e"]


def test_fill_idle_engine_tries_one_of_those_that_it_could_not_start() -> None:
    limits = Limits(512, 8, 10_000, blocked={"a", "b"})
    assert run([job("a", 100), job("b", 100)], limits).chunks == [Chunk("a", 100)]
    assert run([job("a", 100), job("b", 100)], limits, num_decodes=1).chunks == []
    assert run([job("a", 100), job("b", 100), job("c", 5)], limits).chunks == [Chunk("c", 5)]


def test_fill_spares_are_the_next_in_line_each_once() -> None:
    jobs = [job("a", 600), *(job(f"b{i}", 10, started=i % 2) for i in range(20))]
    filled = run(jobs)
    assert list(filled.spares) == [f"b{i}" for i in range(NUM_SPARES)]
    nothing_runs = run(jobs, limit_s=0.0)
    assert (nothing_runs.chunks, list(nothing_runs.spares)) == ([], [])


def test_fill_shape_knows_the_context_of_each_chunk() -> None:
    shape = run([job("a", 100, started=40), job("b", 10)]).shape
    assert shape == BatchShape(110, 0, 0, 40, 100 * (40 + 50) + 10 * 5)
