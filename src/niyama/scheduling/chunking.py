"""Dynamic chunking: fill the time that decodes leave with prefill, most urgent first.

The time of a step is the slack of the tightest decode; the chunk is the most prefill tokens whose
predicted step, margin included, fits into it (paper, "Dynamic chunking"). A first token comes
out when its step ends, so once a chunk completes an urgent prefill, what is put on top must not
make that late either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.policy import BatchShape, Chunk, LatencyModel, Limits

NUM_SPARES = 8
"""How many more requests may be offered tokens that the chunks leave over."""


@dataclass(slots=True)
class Filled:
    """A step's prefill side: chunks in order, who is next in line, and the whole step's shape."""

    shape: BatchShape
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    spares: list[str] = field(default_factory=list[str])


def fill(
    jobs: Iterable[Job],
    shape: BatchShape,
    now_s: float,
    limit_s: float,
    limits: Limits,
    model: LatencyModel,
) -> Filled:
    """Give each job in turn as many tokens as time, budget and memory allow.

    Args:
        jobs: Prefills, most urgent first; read only as far as needed.
        shape: The step without prefill.
        now_s: Instant at which the step starts.
        limit_s: Time for the whole step, seconds; infinite if no decode binds.
        limits: What the engine can take.
        model: Predicts the step.

    Returns:
        Chunks within all limits (L2, L3, L7). Costs O(log n) per job read.
    """
    filled = Filled(shape)
    tokens = limits.token_budget - shape.num_decode_tokens
    seqs, kv_tokens = limits.free_seqs, limits.free_kv_tokens
    order = iter(jobs)
    for job in order:
        if tokens <= 0 or not _may_start(job, seqs, kv_tokens, is_alone=not filled.chunks and not shape[1]):
            return _with_spares(filled, job, order)
        most = min(job.remaining, tokens)
        num_tokens = model.largest_chunk(filled.shape, job.computed, limit_s, most)
        if num_tokens <= 0:
            return _with_spares(filled, job, order)
        filled.chunks.append(Chunk(job.request_id, num_tokens))
        filled.shape = filled.shape.with_chunk(num_tokens, job.computed)
        tokens -= num_tokens
        kv_tokens -= num_tokens
        seqs -= job.phase is Phase.WAITING
        if num_tokens < job.remaining:
            return _with_spares(filled, None, order)
        if job.due_at > now_s:
            limit_s = min(limit_s, job.due_at - now_s)
    return filled


def _may_start(job: Job, seqs: int, kv_tokens: int, *, is_alone: bool) -> bool:
    """Whether the engine has a place for the job; alone it must be tried, or nothing would ever run."""
    if job.phase is not Phase.WAITING:
        return True
    return seqs > 0 and (is_alone or job.remaining <= kv_tokens)


def _with_spares(filled: Filled, next_job: Job | None, order: Iterator[Job]) -> Filled:
    if not filled.chunks:
        return filled
    if next_job is not None:
        filled.spares.append(next_job.request_id)
    for job in order:
        if len(filled.spares) >= NUM_SPARES:
            break
        filled.spares.append(job.request_id)
    return filled
