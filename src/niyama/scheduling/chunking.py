"""Dynamic chunking: fill the time that decodes leave with prefill, most urgent first.

The time of a step is the slack of the tightest decode; the chunk is the most prefill tokens whose
predicted step, margin included, fits into it (paper, "Dynamic chunking"). A first token comes
out when its step ends, so once a chunk completes an urgent prefill, what is put on top must leave
half of the time until that is due. While the gate is shut (`gate`), whom it holds is computed but for
the last token.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Final

from niyama.scheduling.gate import Gate
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


class _Room:
    """What is left of a step's time and tokens, and of the engine's places for who has not started."""

    def __init__(self, limits: Limits, num_decode_tokens: int, limit_s: float | None) -> None:
        self._seqs = limits.free_seqs
        self._kv_tokens = limits.free_kv_tokens
        self._shared = limits.shared
        self._tokens = limits.token_budget - num_decode_tokens
        self._limit_s = limit_s

    def has_one_for(self, job: Job) -> bool:
        """Whether the whole prompt fits; cached blocks that nobody holds take room, too."""
        if self._seqs <= 0 or job.remaining > self._kv_tokens:
            return False
        if job.computed + job.remaining <= self._kv_tokens:
            return True
        return self._num_unheld(job) + job.remaining <= self._kv_tokens

    def num_tokens(self, job: Job, shape: BatchShape, most: int, model: LatencyModel) -> int:
        """Return how many of up to `most` tokens of a job go on top of a step."""
        num_tokens = most = min(most, self._tokens)
        if self._limit_s is not None:
            num_tokens = model.largest_chunk(shape, job.computed, self._limit_s, most)
            # What time cuts off might as well be cut where the device is at its best: unused time is slack.
            if 0 < num_tokens < most:
                num_tokens = model.efficient_chunk(shape, job.computed, num_tokens)
        return num_tokens

    def take(self, job: Job, num_tokens: int) -> None:
        if job.phase is Phase.WAITING:
            self._seqs -= 1
            self._kv_tokens -= self._num_unheld(job)
        self._kv_tokens -= num_tokens
        self._tokens -= num_tokens

    def end_in_time_for(self, job: Job, now_s: float) -> None:
        """Leave time for a first token that comes out when the step ends."""
        if self._limit_s is not None and job.due_at > now_s:
            self._limit_s = min(self._limit_s, RIDE_SHARE * (job.due_at - now_s))

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
    gate: Gate | None = None,
) -> Filled:
    """Give each job in turn as many tokens as time, budget and memory allow.

    A job that the engine has no place for lets those pass that have theirs, and nobody else. Only the last
    chunk leaves a rest, for vLLM gives all others what they lack: so a step serves one job that a shut gate
    holds, behind the others, and ends before the next one.

    Args:
        jobs: Prefills, most urgent first; read only as far as needed.
        started: Returns those of them that have begun, in the same order; called if needed.
        shape: The step without prefill.
        now_s: Instant at which the step starts.
        limit_s: Time for the whole step, seconds; infinite if no decode binds; None if nothing
            but the token budget bounds it, whatever is due.
        limits: What the engine can take.
        model: Predicts the step.
        gate: Whom it holds is computed but for the last token; None if it is open.

    Returns:
        Chunks within all limits (L2, L3, L7). Costs O(log n) per job read, blocked ones among them.
    """
    filled = Filled(shape)
    room = _Room(limits, shape.num_decode_tokens, limit_s)
    order = iter(jobs)
    passed_over: list[str] = []
    kept_back: Chunk | None = None
    for job in _candidates(order, started, filled, room, limits.blocked):
        is_held = gate is not None and gate.holds(job)
        if is_held and job.remaining == 1:
            continue
        if is_held and kept_back is not None:
            break
        most = job.remaining - 1 if is_held else job.remaining
        num_tokens = room.num_tokens(job, filled.shape, most, model)
        if num_tokens <= 0 or (kept_back is not None and num_tokens < most):
            passed_over.append(job.request_id)
            break
        filled.shape = filled.shape.with_chunk(num_tokens, job.computed)
        room.take(job, num_tokens)
        if is_held:
            kept_back = Chunk(job.request_id, num_tokens)
            if job.phase is Phase.PREFILLING:
                break  # vLLM would serve it before all who have not begun, and to its end
            continue
        filled.chunks.append(Chunk(job.request_id, num_tokens))
        if num_tokens < most:
            break
        room.end_in_time_for(job, now_s)
    if kept_back is not None:
        filled.chunks.append(kept_back)
    if filled.chunks:
        filled.spares = _next_in_line(passed_over, order, filled.chunks, limits.blocked, gate)
    return filled


def _next_in_line(
    passed_over: list[str],
    order: Iterator[Job],
    chunks: list[Chunk],
    blocked: Container[str],
    gate: Gate | None,
) -> Iterator[str]:
    """Yield who was passed over and who comes behind, but for those that run."""
    yield from passed_over
    known = {*passed_over, *[chunk.request_id for chunk in chunks]}
    left = NUM_SPARES - len(passed_over)
    while left > 0:
        job = next(order, None)
        if job is None:
            return
        is_held = gate is not None and gate.holds(job)
        if job.request_id not in known and job.request_id not in blocked and not is_held:
            left -= 1
            yield job.request_id


def _candidates(
    order: Iterator[Job],
    started: Callable[[], Iterable[Job]],
    filled: Filled,
    room: _Room,
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
            if not room.has_one_for(job):
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
