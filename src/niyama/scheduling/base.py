"""What every policy shares: the ledger, the pacing of decodes, and what is learned from steps."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from niyama.compiled import mypyc_attr
from niyama.latency.lengths import OutputLengthEstimator
from niyama.scheduling.chunking import Filled
from niyama.scheduling.deadlines import (
    Anchor,
    last_token_due_at,
    needed_pace_s,
    prefill_due_at,
    second_token_due_at,
)
from niyama.scheduling.ledger import Job, Ledger, Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.pacing import MIN_HEAP, STALE_SHARE, Pacer
from niyama.scheduling.policy import BatchShape, LatencyModel, Launch, Plan, Request, StepOutcome

PERIOD_WEIGHT: Final = 0.02
"""Weight of a new step in the average step time."""

PROBE_TOKENS: Final = 512
"""Chunk by whose predicted time the service time of a token is first guessed."""

TOKEN_TIME_MEMORY_S: Final = 10.0
"""Engine time over which the service time of a prefill token is averaged. Time, not tokens: steps
whose decodes leave no room for prefill count, and must be forgotten when they are over."""

SLOWEST_TIMES: Final = 10.0
"""Steps without any prefill make a token this many times slower than it is alone, and no more. Where every
seat is taken for minutes the average would grow without end, and so would the work of what arrives then."""


class InFlight(NamedTuple):
    """A launched step that has not ended."""

    number: int
    num_prefill_tokens: int
    is_saturated: bool
    newborn: list[str]
    stalled: Sequence[str]


@mypyc_attr(allow_interpreted_subclasses=True)
class BasePolicy:
    """Keeps the books; a subclass orders the prefills and decides the step in `plan`.

    Attributes:
        ledger: Where every request stands.
        pacer: When the next token of every decoding request is due.
        model: The step-time model; learns from `observe`.
        step_s: Average time of a step, seconds.
        paces: How many requests that are in were promised each TBT.
        num_sitting: Decodes that sit out by the last plan.
        spares_decodes: Whether prefill gives way where its mere launch would make a decode's token late.
    """

    name = "base"
    spares_decodes = False

    def __init__(self, model: LatencyModel, anchor: Anchor = "strict") -> None:
        self.ledger = Ledger()
        self.pacer = Pacer()
        self.model = model
        self.lengths = OutputLengthEstimator()
        self.anchor = anchor
        self.step_s = model.predict_s(BatchShape(0, 8, 8))
        self._in_flight: deque[InFlight] = deque()
        self._newborn: dict[str, float] = {}
        self._reviews: list[tuple[int, str]] = []
        self._review_at: dict[str, int] = {}
        self._token_time_s = 0.0
        self._token_count = 0.0
        self.paces: dict[float, int] = {}
        self.num_sitting = 0
        self._is_kept_out = False

    # The protocol -----------------------------------------------------------------------------

    def arrive(self, request: Request, now_s: float) -> None:
        """See `Policy.arrive`. O(log n)."""
        expected = self.lengths.expect(
            request.qos_class, request.tenant, request.max_tokens, hint=request.expected_output_tokens
        )
        job = self.ledger.arrive(request, expected)
        job.due_at = prefill_due_at(request, expected, self.decode_step_s(request, expected))
        self._count_pace(request, 1)
        self._enqueue(job, now_s)

    def decode_step_s(self, request: Request, expected_output: int) -> float:
        """Return the time per output token with which a request's prefill is due, seconds."""
        return self.step_s

    def decode_pace_s(
        self, request: Request, time_left_s: float, expected_output: int, tokens_left: int, step_s: float
    ) -> float:
        """Return the time per token at which a decoding request is paced, seconds; see `wary_pace_s`."""
        return needed_pace_s(request.slo, time_left_s, tokens_left, step_s)

    def depart(self, request_id: str, now_s: float, *, finished: bool = True) -> None:
        """See `Policy.depart`. O(log n)."""
        job = self.ledger.depart(request_id)
        if job is None:
            return
        self.pacer.leave(request_id)
        self._newborn.pop(request_id, None)
        self._review_at.pop(request_id, None)
        self._count_pace(job.request, -1)
        self._dequeue(job)
        if finished and job.num_emitted > 0:
            self.lengths.finished(job.request.qos_class, job.request.tenant, job.num_emitted)

    def cached(self, request_id: str, num_tokens: int, now_s: float) -> None:
        """See `Policy.cached`. O(log n)."""
        job = self.ledger.jobs.get(request_id)
        if job is not None and self.ledger.take_cached(job, num_tokens):
            self._enqueue(job, now_s)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        """See `Policy.plan`."""
        raise NotImplementedError

    def begin(self, launch: Launch) -> None:
        """See `Policy.begin`. O(log n) per prefill chunk, nothing per decode."""
        for request_id in launch.preempted:
            self._evict(request_id)
        number = self.ledger.num_launches
        for request_id in launch.stalled:
            self.pacer.shift(request_id, -1)
        completed = self.ledger.begin(launch)
        for job in completed:
            self._dequeue(job)
            self._newborn[job.request_id] = needed_pace_s(job.request.slo, math.inf, 1, 0.0)
        for done in launch.prefills:
            job_or_none = self.ledger.jobs.get(done.request_id)
            if job_or_none is not None and job_or_none.phase is Phase.PREFILLING:
                self._enqueue(job_or_none, launch.at)
        for request_id in launch.preempted:
            evicted = self.ledger.jobs.get(request_id)
            # One that lost its KV between steps may end its prefill in this very launch.
            if evicted is not None and evicted.phase is not Phase.DECODING:
                self._enqueue(evicted, launch.at)
        newborn = [job.request_id for job in completed]
        num_tokens = launch.shape.num_prefill_tokens
        # Who sat out is missing from the step's time, which then says little of the usual one. Nor does
        # a step without prefill because the engine could start nobody.
        is_saturated = self._has_backlog() and not self.num_sitting
        is_kept_out = self._is_kept_out and not num_tokens and not launch.preempted
        is_saturated = is_saturated and not is_kept_out
        self._in_flight.append(InFlight(number, num_tokens, is_saturated, newborn, launch.stalled))

    def observe(self, outcome: StepOutcome) -> None:
        """See `Policy.observe`. O(log n) per first or late token."""
        step = self._in_flight.popleft()
        duration_s = outcome.ended_at - outcome.started_at
        if outcome.is_clean and duration_s > 0:
            if outcome.lessons is None:
                self.model.observe(outcome.launch.shape, duration_s)
            self.step_s += PERIOD_WEIGHT * (duration_s - self.step_s)
            if step.is_saturated:
                self._learn_token_time(duration_s, step.num_prefill_tokens)
        for shape, lesson_s in outcome.lessons or ():
            self.model.observe(shape, lesson_s)
        for request_id, num_tokens in outcome.extra_tokens.items():
            self.ledger.correct(request_id, num_tokens)
            self.pacer.shift(request_id, num_tokens)
        for request_id in step.newborn:
            self._newborn.pop(request_id, None)
        self._pace_anew(step.number, outcome)

    def in_order(self) -> Iterator[Job]:
        """Yield the prefills still to be done, most urgent first."""
        raise NotImplementedError

    # For subclasses ---------------------------------------------------------------------------

    @property
    def token_s(self) -> float:
        """Engine time that one prefill token takes under the present mix, seconds.

        Measured over steps that left prefills waiting; it includes the decodes that ran along.
        """
        return self.measured_token_s()

    def measured_token_s(self) -> float:
        """Return `token_s` as measured."""
        if self._token_count > 0:
            return self._token_time_s / self._token_count
        return self._guessed_token_s()

    def _guessed_token_s(self) -> float:
        shape = self.ledger.decode_shape().with_chunk(PROBE_TOKENS, 0)
        return self.model.predict_s(shape) / PROBE_TOKENS

    def slack_s(self, now_s: float) -> float:
        """Return the time until the tightest decode's next token is due; infinite if none binds."""
        slack_s = self.pacer.tightest(self.ledger.num_launches) - now_s
        if self._newborn:
            slack_s = min(slack_s, *self._newborn.values())
        return slack_s

    def _planned(
        self,
        filled: Filled,
        slack_s: float,
        relegated: list[str],
        restored: list[str],
        stalled: Sequence[str] = (),
    ) -> Plan:
        """Return the plan that runs what is filled in and holds every other started prefill."""
        shape = filled.shape
        self._is_kept_out = filled.is_blocked or bool(filled.chunks)
        predicted_s = self.model.predict_s(shape)
        held: list[str] = []
        if self.ledger.started:
            running = [chunk.request_id for chunk in filled.chunks]
            held = [i for i in self.ledger.started if i not in running]
        return Plan(
            shape.num_prefill_tokens + shape.num_decode_tokens,
            filled.chunks,
            shape,
            predicted_s,
            spares=filled.spares,
            held=held,
            stalled=stalled,
            relegated=relegated,
            restored=restored,
            slack_s=slack_s,
            is_late=predicted_s > slack_s,
        )

    def _enqueue(self, job: Job, now_s: float) -> None:
        """Put a prefill in order, or move it after progress."""
        raise NotImplementedError

    def _dequeue(self, job: Job) -> None:
        """Take a prefill out of the order; unknown ones pass."""
        raise NotImplementedError

    def _has_backlog(self) -> bool:
        """Whether prefills are waiting that the launched step does not finish."""
        raise NotImplementedError

    # Private ----------------------------------------------------------------------------------

    def _count_pace(self, request: Request, change: int) -> None:
        tbt_s = request.slo.tbt_s
        if tbt_s is not None:
            self.paces[tbt_s] = self.paces.get(tbt_s, 0) + change
            if not self.paces[tbt_s]:
                del self.paces[tbt_s]

    def _evict(self, request_id: str) -> None:
        """Before the ledger hears of it: the evicted request's next token stays due when it was."""
        if request_id in self.pacer:
            job = self.ledger.jobs[request_id]
            if job.request.slo.is_interactive:
                job.due_at = self.pacer.due_at(request_id, self.ledger.num_launches)
            self.pacer.leave(request_id)
        self._newborn.pop(request_id, None)
        self._review_at.pop(request_id, None)

    def _pace_anew(self, launch: int, outcome: StepOutcome) -> None:
        """Pace who has just begun to decode, who fell behind, and who outlived the estimate."""
        now_s = outcome.ended_at
        for request_id in self._take_late(launch, outcome):
            self._set_pace(self.ledger.jobs[request_id], now_s, launch)
        for request_id in outcome.completed:
            job = self.ledger.jobs.get(request_id)
            if job is not None and job.phase is Phase.DECODING:
                if job.first_token_at is None:
                    job.first_token_at = now_s
                self._set_pace(job, now_s, launch)
        while self._reviews and self._reviews[0][0] <= launch:
            at, request_id = heapq.heappop(self._reviews)
            if request_id in self.pacer and self._review_at.get(request_id) == at:
                self._set_pace(self.ledger.jobs[request_id], now_s, launch)

    def _take_late(self, launch: int, outcome: StepOutcome) -> list[str]:
        """Return who got the token of `launch` too late.

        A token that is missing, from this launch or one in flight, makes the next one due earlier,
        but not the ones before it.
        """
        missing = list(outcome.launch.stalled)
        for step in self._in_flight:
            missing += step.stalled
        for request_id, num_tokens in outcome.extra_tokens.items():
            missing += [request_id] * -num_tokens
        for request_id in missing:
            self.pacer.shift(request_id, 1)
        late = [request_id for request_id, _, _ in self.pacer.take_late(launch, outcome.ended_at)]
        for request_id in missing:
            self.pacer.shift(request_id, -1)
        return late

    def _set_pace(self, job: Job, now_s: float, launch: int) -> None:
        """Pace a decoding job whose token of `launch` came out now; a late one starts over."""
        request = job.request
        num_stalled = sum([job.request_id in step.stalled for step in self._in_flight])
        num_in_flight = self.ledger.num_launches - 1 - launch - num_stalled
        num_emitted = self.ledger.num_output_tokens(job) - num_in_flight
        expected = self.lengths.expect(
            request.qos_class,
            request.tenant,
            request.max_tokens,
            so_far=num_emitted,
            hint=job.expected_output,
        )
        tokens_left = max(1, expected - num_emitted)
        decode_step_s = self.model.predict_s(self.ledger.decode_shape())
        time_left_s = last_token_due_at(request) - now_s
        pace_s = self.decode_pace_s(request, time_left_s, expected, tokens_left, decode_step_s)
        if job.first_token_at == now_s:
            due_at = second_token_due_at(request, now_s, pace_s, self.anchor)
        else:
            due_at = now_s + pace_s
        self.pacer.join(job.request_id, pace_s, due_at, launch + 1 + num_stalled)
        if request.slo.ttlt_s is not None:
            self._review(job.request_id, launch + tokens_left)

    def _review(self, request_id: str, launch: int) -> None:
        """Look at a request's pace again after `launch`, and not when it was to be before."""
        if self._review_at.get(request_id) != launch:
            self._review_at[request_id] = launch
            heapq.heappush(self._reviews, (launch, request_id))
            if len(self._reviews) > STALE_SHARE * len(self._review_at) + MIN_HEAP:
                self._reviews = [(at, i) for i, at in self._review_at.items()]
                heapq.heapify(self._reviews)

    def _learn_token_time(self, duration_s: float, num_tokens: int) -> None:
        keep = math.exp(-duration_s / TOKEN_TIME_MEMORY_S)
        self._token_time_s = self._token_time_s * keep + duration_s
        self._token_count = self._token_count * keep + num_tokens
        if not num_tokens and self._token_count > 0:
            slowest_s = SLOWEST_TIMES * self._guessed_token_s()
            self._token_count = max(self._token_count, self._token_time_s / slowest_s)
