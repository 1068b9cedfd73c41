"""Dynamic chunking: fill the time that decodes leave with prefill, most urgent first.

The time of a step is the slack of the tightest decode; the chunk is the most prefill tokens whose
predicted step, margin included, fits into it (paper, "Dynamic chunking"). A first token comes
out when its step ends, so once a chunk completes an urgent prefill, what is put on top must leave
half of the time until that is due.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Final

from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import BatchShape, Chunk, LatencyModel

RIDE_SHARE: Final = 0.5
"""Others ride along with a first token for at most this share of the time until it is due. A longer step
would save little, the fixed cost of one step, and what delays it by a few per cent would cost a promise."""

NUM_SPARES: Final = 8
"""How many more requests may be offered tokens that the chunks leave over."""


class Filled:
    """A step's prefill side.

    Attributes:
        shape: The whole step, decodes included.
        chunks: Who runs, most urgent first.
        spares: Who is next in line, each once; found as it is read.
        is_blocked: Whether somebody was passed over whom the engine cannot start.
    """

    __slots__ = ("chunks", "is_blocked", "shape", "spares")

    def __init__(self, shape: BatchShape) -> None:
        self.shape = shape
        self.chunks: list[Chunk] = []
        self.spares: Iterable[str] = ()
        self.is_blocked = False


class _Places:
    """What is left of the engine's room for requests that have not started."""

    def __init__(self, limits: Limits) -> None:
        self._seqs = limits.free_seqs
        self._kv_tokens = limits.free_kv_tokens
        self._shared = limits.shared

    def has_one_for(self, job: Job) -> bool:
        """Whether the whole prompt fits; cached blocks that nobody holds take room, too."""
        if self._seqs <= 0 or job.remaining > self._kv_tokens:
            return False
        if job.computed + job.remaining <= self._kv_tokens:
            return True
        return self._num_unheld(job) + job.remaining <= self._kv_tokens

    def take(self, job: Job, num_tokens: int) -> None:
        if job.phase is Phase.WAITING:
            self._seqs -= 1
            self._kv_tokens -= self._num_unheld(job)
        self._kv_tokens -= num_tokens

    def _num_unheld(self, job: Job) -> int:
        """Return the cached tokens of a waiting request that count as free until it starts."""
        if not job.computed:
            return 0
        return max(0, job.computed - self._shared.num_tokens(job.request_id))


def fill(
    jobs: Iterable[Job],
    started: Callable[[], Iterable[Job]],
    shape: BatchShape,
    now_s: float,
    limit_s: float | None,
    limits: Limits,
    model: LatencyModel,
) -> Filled:
    """Give each job in turn as many tokens as time, budget and memory allow.

    A job that the engine has no place for lets those pass that have theirs, and nobody else.

    Args:
        jobs: Prefills, most urgent first; read only as far as needed.
        started: Returns those of them that have begun, in the same order; called if needed.
        shape: The step without prefill.
        now_s: Instant at which the step starts.
        limit_s: Time for the whole step, seconds; infinite if no decode binds; None if nothing
            but the token budget bounds it, whatever is due.
        limits: What the engine can take.
        model: Predicts the step.

    Returns:
        Chunks within all limits (L2, L3, L7). Costs O(log n) per job read, blocked ones among them.
    """
    filled = Filled(shape)
    tokens = limits.token_budget - shape.num_decode_tokens
    places = _Places(limits)
    order = iter(jobs)
    passed_over: list[str] = []
    for job in _candidates(order, started, filled, places, limits.blocked):
        num_tokens = min(job.remaining, tokens)
        if limit_s is not None:
            most = model.largest_chunk(filled.shape, job.computed, limit_s, num_tokens)
            # What time cuts off might as well be cut where the device is at its best: unused time is slack.
            if 0 < most < num_tokens:
                most = model.efficient_chunk(filled.shape, job.computed, most)
            num_tokens = most
        if num_tokens <= 0:
            passed_over.append(job.request_id)
            break
        filled.chunks.append(Chunk(job.request_id, num_tokens))
        filled.shape = filled.shape.with_chunk(num_tokens, job.computed)
        places.take(job, num_tokens)
        tokens -= num_tokens
        if num_tokens < job.remaining:
            break
        if limit_s is not None and job.due_at > now_s:
            limit_s = min(limit_s, RIDE_SHARE * (job.due_at - now_s))
    if filled.chunks:
        filled.spares = _next_in_line(passed_over, order, filled.chunks, limits.blocked)
    return filled


def _next_in_line(
    passed_over: list[str], order: Iterator[Job], chunks: list[Chunk], blocked: Container[str]
) -> Iterator[str]:
    """Yield who was passed over and who comes behind, but for those that run."""
    yield from passed_over
    known = {*passed_over, *[chunk.request_id for chunk in chunks]}
    left = NUM_SPARES - len(passed_over)
    while left > 0:
        job = next(order, None)
        if job is None:
            return
        if job.request_id not in known and job.request_id not in blocked:
            left -= 1
            yield job.request_id


def _candidates(
    order: Iterator[Job],
    started: Callable[[], Iterable[Job]],
    filled: Filled,
    places: _Places,
    blocked: Container[str],
) -> Iterator[Job]:
    """Yield who may run, in order; after the first without a place, only those that have begun."""
    is_idle = not filled.shape.num_decode_tokens
    kept_out: Job | None = None
    for job in order:
        if job.phase is Phase.WAITING:
            if job.request_id in blocked:
                filled.is_blocked = True
                kept_out = kept_out or job
                continue
            if not places.has_one_for(job):
                break
        yield job
    else:
        if kept_out is not None and is_idle and not filled.chunks:
            yield kept_out  # nothing else can run, so it costs nothing to try
        return
    running = {chunk.request_id for chunk in filled.chunks}
    others = [other for other in started() if other.request_id not in running]
    if not others and not running and is_idle:
        yield job  # with an idle engine it must be tried, or nothing would ever run
    yield from others
