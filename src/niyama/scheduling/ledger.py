"""Where every request stands: waiting, prefilling or decoding (L1), and sums kept as they change.

Counts advance when a step is launched, not when it ends, so that the next step can be planned
while one is in flight. Nothing here costs anything per decoding request and step: the number
of tokens of a decoding request follows from the number of launches since it began to decode.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from niyama.scheduling.policy import BatchShape, Launch, Request


class Phase(Enum):
    """The state of a request; it is in exactly one (L1)."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"


class Offered(NamedTuple):
    """The engine time of a request, the same if those decodes sit out that can (seconds), and the instant."""

    work_s: float
    pressing_s: float
    at: float


NOTHING: Final = Offered(0.0, 0.0, 0.0)


class Job:
    """A request and how far it has come.

    Attributes:
        computed: Tokens of KV, cached ones included. Not advanced while decoding: see
            `Ledger.num_output_tokens`.
        remaining: Tokens still to be computed before the next output token (uncached work).
        num_emitted: Output tokens up to the last phase change; the first token counts when
            the step that computes it is launched.
        first_token_at: Instant of the first token, None before it came out.
        relegated: Whether it is set aside.
        promoted: Whether it is served by its deadline alone, whatever its work.
        standing: Whether its tenant asks for more than its share, and it is part of that (see `shares`).
        offered: What it counted as when its load was measured (see `load`), and when.
        due_at: Instant by which its prefill must be done (see `deadlines.prefill_due_at`).
        expected_output: Output tokens expected in all, when it arrived.
    """

    __slots__ = (
        "computed",
        "decode_offset",
        "due_at",
        "expected_output",
        "first_token_at",
        "num_emitted",
        "offered",
        "phase",
        "promoted",
        "relegated",
        "remaining",
        "request",
        "request_id",
        "standing",
    )

    def __init__(self, request: Request, expected_output: int) -> None:
        self.request = request
        self.request_id = request.request_id
        self.phase = Phase.WAITING
        self.computed = min(request.num_cached_tokens, request.num_prompt_tokens - 1)
        self.remaining = request.num_prompt_tokens - self.computed
        self.num_emitted = 0
        self.decode_offset = 0
        self.first_token_at: float | None = None
        self.relegated = False
        self.promoted = False
        self.standing = 0
        self.offered = NOTHING
        self.due_at = 0.0
        self.expected_output = expected_output


class Ledger:
    """All requests of one engine, by phase.

    Attributes:
        jobs: Every request that is in, by id.
        started: Those whose prefill has begun and is not done, in order of their start.
        num_decoding: How many decode.
        num_launches: Steps launched so far.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.started: dict[str, Job] = {}
        self.num_decoding = 0
        self.num_launches = 0
        self._decode_context = 0

    def arrive(self, request: Request, expected_output: int) -> Job:
        """Take in a request as waiting. Raises ValueError if its id is in already."""
        if request.request_id in self.jobs:
            raise ValueError(f"request_id: {request.request_id!r} has arrived already; ids must be unique")
        job = Job(request, expected_output)
        self.jobs[request.request_id] = job
        return job

    def depart(self, request_id: str) -> Job | None:
        """Forget a request and return it; None if it is not in."""
        job = self.jobs.pop(request_id, None)
        if job is not None:
            self._leave_phase(job)
        return job

    def take_cached(self, job: Job, num_tokens: int) -> bool:
        """Count leading tokens of a waiting request as done; return whether that is less work for it."""
        num_tokens = min(num_tokens, job.request.num_prompt_tokens - 1)
        if job.phase is not Phase.WAITING or num_tokens <= job.computed:
            return False
        job.remaining -= num_tokens - job.computed
        job.computed = num_tokens
        return True

    def num_output_tokens(self, job: Job) -> int:
        """Output tokens launched so far, at the price of one subtraction."""
        if job.phase is Phase.DECODING:
            return self.num_launches - job.decode_offset
        return job.num_emitted

    def decode_shape(self, tokens_per_decode: int = 1) -> BatchShape:
        """The next step's shape without any prefill."""
        return BatchShape(0, self.num_decoding * tokens_per_decode, self._decode_context)

    def begin(self, launch: Launch) -> list[Job]:
        """Count what was launched; return the jobs whose prefill it completes."""
        for request_id in launch.preempted:
            self._evict(request_id)
        self.num_launches += 1
        self._decode_context += self.num_decoding
        for request_id in launch.stalled:
            self.correct(request_id, -1)
        completed: list[Job] = []
        for done in launch.prefills:
            job = self.jobs.get(done.request_id)
            if job is None or job.phase is Phase.DECODING:
                continue
            job.computed, job.remaining = done.computed, done.remaining
            job.num_emitted = done.computed + done.remaining - job.request.num_prompt_tokens
            if job.remaining > 0:
                job.phase = Phase.PREFILLING
                self.started[job.request_id] = job
            else:
                self._start_decoding(job)
                completed.append(job)
        return completed

    def correct(self, request_id: str, num_tokens: int) -> None:
        """Count `num_tokens` more (or fewer) for a decoding request than one per launch."""
        job = self.jobs.get(request_id)
        if job is not None and job.phase is Phase.DECODING:
            job.decode_offset -= num_tokens
            self._decode_context += num_tokens

    def _start_decoding(self, job: Job) -> None:
        self.started.pop(job.request_id, None)
        job.phase = Phase.DECODING
        job.remaining = 0
        job.decode_offset = self.num_launches - job.num_emitted - 1
        self.num_decoding += 1
        self._decode_context += job.computed

    def _leave_phase(self, job: Job) -> None:
        if job.phase is Phase.DECODING:
            job.num_emitted = self.num_output_tokens(job)
            self.num_decoding -= 1
            self._decode_context -= job.request.num_prompt_tokens + job.num_emitted - 1
        else:
            self.started.pop(job.request_id, None)

    def _evict(self, request_id: str) -> None:
        """The engine freed the request's KV: all of it is to be computed again."""
        job = self.jobs.get(request_id)
        if job is None:
            return
        self._leave_phase(job)
        job.phase = Phase.WAITING
        job.computed = 0
        job.remaining = job.request.num_prompt_tokens + job.num_emitted

    def check(self) -> None:
        """Assert L1 and that every running sum equals what it sums. O(requests); for tests."""
        decoding = [j for j in self.jobs.values() if j.phase is Phase.DECODING]
        assert len(decoding) == self.num_decoding, (len(decoding), self.num_decoding)
        context = sum([j.request.num_prompt_tokens + self.num_output_tokens(j) - 1 for j in decoding])
        assert context == self._decode_context, (context, self._decode_context)
        prefilling = {i for i, j in self.jobs.items() if j.phase is Phase.PREFILLING}
        assert prefilling == set(self.started), (prefilling, set(self.started))
