"""The policy: QoS-driven scheduling of every engine step (paper, sections on the four mechanisms).

Each step:
  1. Load and alpha follow what arrives: earliest deadline first while there is time for all,
     sliding towards shortest work first beyond (hybrid prioritization).
  2. Whose tenant asks for more than its share has a standing behind the others' (`shares`).
  3. If the prefills, served in that order, would not all be in time, let who is late for alpha
     alone go by its deadline, if nobody else is late for it; otherwise set aside the least
     important, the most beyond its tenant's share and the largest until the rest would be; take
     back who fits again (eager relegation).
  4. The time of the step is the slack of the tightest decode, less while the engine is not busy; fill it
     with prefill tokens, most urgent first, set-aside requests last (dynamic chunking).
  5. A started prefill that is not among them is held: its KV stays (selective preemption). While nobody
     reads along and the engine is busy, those that would bring a reader wait to begin together (`gate`).
Every decode runs in every step, unless it has time and an urgent prefill needs what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from niyama.compiled import mypyc_attr
from niyama.scheduling.backlog import Backlog, FullKey, Item
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.chunking import Filled, fill
from niyama.scheduling.deadlines import Anchor, unhurried_step_s
from niyama.scheduling.gate import Gate
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.load import Load
from niyama.scheduling.policy import BatchShape, LatencyModel, Launch, Plan, Request, StepOutcome
from niyama.scheduling.priority import hybrid_key
from niyama.scheduling.relegation import Relegated, find_victim
from niyama.scheduling.shares import BEYOND, NUM_STANDINGS, WITHIN, Shares
from niyama.scheduling.sitting import GUARD_STEPS, PRESSED_STEPS, Sitting, sit_out
from niyama.scheduling.stalls import Stalls

DRIFT: Final = 1.2
"""The backlog's work is measured anew when the service time of a token changes by this factor."""

REKEY_EVERY: Final = 4
"""After such a change one request is put in order anew in so many steps, from the most urgent on."""

RESERVE_SHARE: Final = 0.5
"""Of the slack at most this share is kept for a stall: in the long run one token's time, so that a token
may come as late as that."""

SHARE_RATE: Final = 0.05
FORGET_RATE: Final = 0.0002
"""Weight of a step in what sitting out is expected to be worth: one in which something is urgent, and
one in which nothing is."""

GATE_LOAD: Final = 0.8
"""The gate is open while less than this share of the engine is asked for."""

RELEGATIONS_PER_STEP: Final = 8
"""A bound on a step's work; the first who would be late is dealt with first."""


@mypyc_attr(allow_interpreted_subclasses=True)
class NiyamaPolicy(BasePolicy):
    """The published mechanisms with a load-following alpha and reversible, feasibility-tested relegation."""

    name = "niyama"
    spares_decodes = True

    def __init__(self, model: LatencyModel, anchor: Anchor = "strict") -> None:
        self._share = 1.0
        self._found_share: float | None = None
        self._sat_in_vain = False
        super().__init__(model, anchor)
        self.load = Load()
        self.shares = Shares()
        self.backlog = Backlog()
        self.set_aside = Backlog()
        self._restorable = Relegated()
        self._token_s = self.token_s
        self._sweeps: list[tuple[Backlog, FullKey | None]] = []
        self._stalls = Stalls()
        self._gate = Gate()

    @property
    def alpha_s(self) -> float:
        """The weight of remaining work in the order, seconds per token."""
        return self.load.alpha_s(self._token_s)

    @property
    def handicap_s(self) -> float:
        """How far a step of lower importance stands back in the order, seconds."""
        return self.load.handicap_s(self._token_s)

    def arrive(self, request: Request, now_s: float) -> None:
        """See `Policy.arrive`."""
        super().arrive(request, now_s)
        num_tokens = self.ledger.jobs[request.request_id].remaining
        work_s = num_tokens * self.measured_token_s()
        self.load.offer(work_s, num_tokens * self._token_s, int(request.importance), now_s)
        self.shares.arrive(request, num_tokens, now_s)

    def cached(self, request_id: str, num_tokens: int, now_s: float) -> None:
        """See `Policy.cached`; what was offered is less by what need not be computed."""
        job = self.ledger.jobs.get(request_id)
        before = 0 if job is None else job.remaining
        super().cached(request_id, num_tokens, now_s)
        if job is not None and job.remaining < before:
            importance, measured_s = int(job.request.importance), self.measured_token_s()
            for sign, tokens in ((-1, before), (1, job.remaining)):
                self.load.offer(tokens * measured_s, tokens * self._token_s, importance, now_s, sign)

    def decode_step_s(self, request: Request, expected_output: int) -> float:
        """See `BasePolicy.decode_step_s`."""
        tightest_s = min(self.paces, default=math.inf)
        return unhurried_step_s(request, expected_output, self.step_s, tightest_s)

    def depart(self, request_id: str, now_s: float, *, finished: bool = True) -> None:
        """See `Policy.depart`."""
        job = self.ledger.jobs.get(request_id)
        super().depart(request_id, now_s, finished=finished)
        self._gate.end(request_id)
        if job is not None:
            self.shares.answered(job.request, job.num_emitted, now_s)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        """See `Policy.plan`. O(log n) in waiting requests; nothing per decode unless something is urgent."""
        self._follow_load(now_s)
        stall_s = self._stalls.stall_s(self.step_s)
        relegated = self._relegate(now_s + stall_s)
        restored = self._restore(now_s + stall_s)
        slack_s = self.slack_s(now_s)
        # Part is kept so that a stall breaks no promise. It costs little: what one step leaves unused is
        # slack for the next, until somebody begins to decode who has none.
        time_s = slack_s - max(0.0, min(stall_s, RESERVE_SHARE * slack_s))
        shut_s, self._found_share = self._shut_s(now_s, stall_s, limits), None
        sitting = self._sit_out(now_s, slack_s, time_s, limits) if not shut_s else self._nobody(limits)
        filled = self._fill(sitting.decodes, now_s, time_s, shut_s, limits)
        if sitting.request_ids and not filled.chunks:
            sitting = self._nobody(limits)
            filled = self._fill(sitting.decodes, now_s, time_s, shut_s, limits)
        self.num_sitting = len(sitting.request_ids)
        return self._planned(filled, slack_s, relegated, restored, sitting.request_ids)

    def _fill(
        self, decodes: BatchShape, now_s: float, time_s: float, shut_s: float, limits: Limits
    ) -> Filled:
        """Return the step's prefills. A shut gate and a calm step give way where they leave nothing to do."""
        started, model = self.started_in_order, self.model
        calm_s = min(time_s, self._calm_s(now_s, decodes))
        if shut_s > 0:
            until_s = min(calm_s, shut_s)
            filled = fill(self.in_order(), started, decodes, now_s, until_s, limits, model, self._gate)
            if filled.chunks:
                return filled
        if calm_s < time_s:
            filled = fill(self.in_order(), started, decodes, now_s, calm_s, limits, model)
            if filled.chunks:
                return filled
        return fill(self.in_order(), started, decodes, now_s, time_s, limits, model)

    def _calm_s(self, now_s: float, decodes: BatchShape) -> float:
        """Return how long the step may be, for whoever comes meanwhile; infinite if others need it longer."""
        if not self._has_backlog():
            return math.inf
        waiting_s = self.backlog.total_s + self.set_aside.total_s
        calm_s = self.load.calm_step_s(now_s, waiting_s, self.model.predict_s(decodes))
        return calm_s if self.backlog.margin - now_s > calm_s else math.inf

    def _shut_s(self, now_s: float, stall_s: float, limits: Limits) -> float:
        """Return for how long the gate may stay shut, seconds, 0 for not at all.

        It keeps first tokens back, so only an engine that needs the time shuts it, and one that has
        memory: as much must be free as is kept by those who wait. By the paper's criterion a token
        that comes early gives time to those behind it, so nobody waits.
        """
        if self.anchor != "strict" or self.load.share(now_s) < GATE_LOAD:
            return 0.0
        decode_step_s = self.model.predict_s(self.ledger.decode_shape(limits.tokens_per_decode))
        shut_s = self._gate.shut_s(now_s, decode_step_s + stall_s)
        if shut_s <= self.step_s:
            return 0.0
        kept = sum([job.computed for job in self.ledger.started.values() if self._gate.holds(job)])
        return shut_s if kept <= limits.free_kv_tokens else 0.0

    def _nobody(self, limits: Limits) -> Sitting:
        return Sitting([], self.ledger.decode_shape(limits.tokens_per_decode), 1.0)

    def _sit_out(self, now_s: float, slack_s: float, time_s: float, limits: Limits) -> Sitting:
        """Return which decodes sit this step out: some if a prefill that is read along is urgent."""
        nobody = self._nobody(limits)
        late = self.backlog.first_late(now_s + PRESSED_STEPS * self.step_s)
        self._found_share = None if late is None else 1.0
        if late is None or slack_s == math.inf or self.load.level > 0 or self._sat_in_vain:
            return nobody
        if not self.ledger.jobs[late.request_id].request.slo.is_interactive:
            return nobody
        if late.request_id in limits.blocked:
            return nobody
        all_due = self.pacer.all_due(self.ledger.num_launches)
        tightest_s = min(self.paces, default=math.inf)
        until_at = now_s + max(0.0, slack_s) + GUARD_STEPS * self.step_s
        found = sit_out(
            self.ledger, all_due, nobody.decodes, tightest_s, until_at, time_s, limits, self.model
        )
        self._found_share = found.share
        return found

    @property
    def token_s(self) -> float:
        """See `BasePolicy.token_s`; while something is urgent, less by what those who sit out leave."""
        return self.measured_token_s() * self._share

    def begin(self, launch: Launch) -> None:
        """See `Policy.begin`."""
        super().begin(launch)
        for done in launch.prefills:
            job = self.ledger.jobs.get(done.request_id)
            if job is not None and job.phase is Phase.DECODING:
                self._gate.begin(job)
        self._sat_in_vain = self.num_sitting > 0 and not launch.prefills
        if self._found_share is not None:
            self._share += SHARE_RATE * (self._found_share - self._share)
        else:
            self._share += FORGET_RATE * (1.0 - self._share)

    def observe(self, outcome: StepOutcome) -> None:
        """See `Policy.observe`."""
        duration_s = outcome.ended_at - outcome.started_at
        if outcome.is_clean and duration_s > 0:
            predicted_s = self.model.predict_s(outcome.launch.shape)
            self._stalls.observe(duration_s, predicted_s + self.model.margin_s(predicted_s))
        super().observe(outcome)

    def _follow_load(self, now_s: float) -> None:
        """Let alpha, the shares and the measured service time act on the order, one request at a time."""
        token_s = self.token_s
        has_drifted = not self._token_s / DRIFT < token_s < self._token_s * DRIFT
        if has_drifted:
            self._token_s = token_s
        is_new_order = self.load.follow(now_s, self.backlog.margin - now_s) or has_drifted
        if (self.shares.follow(now_s) and not self._sweeps) or is_new_order:
            self._sweeps = [(order, None) for order in (self.set_aside, self.backlog)]
        if self._sweeps and self.ledger.num_launches % REKEY_EVERY == 0:
            order, last = self._sweeps.pop()
            item = order.after(last)
            if item is not None:
                self._sweeps.append((order, item.key))
                self._enqueue(self.ledger.jobs[item.request_id], now_s)

    def _relegate(self, now_s: float) -> list[str]:
        """Set requests aside until all others would be in time, or enough for one step."""
        relegated: list[str] = []
        for _ in range(RELEGATIONS_PER_STEP):
            late = self.backlog.first_late(now_s)
            if late is None:
                break
            if self._promote(late, now_s):
                continue
            item = find_victim(self.backlog, late, now_s)
            job = self.ledger.jobs[item.request_id]
            self.backlog.discard(item.request_id)
            job.relegated, job.promoted = True, False
            self.shares.set_aside(job.request, job.remaining, now_s)
            self._enqueue(job, now_s)
            self._restorable.add(item)
            relegated.append(item.request_id)
        return relegated

    def _promote(self, late: Item, now_s: float) -> bool:
        """Serve a request by its deadline if alpha alone makes it late; return whether that helps.

        Nobody else may be late for it, and there must be time for requests of its size.
        """
        job = self.ledger.jobs[late.request_id]
        if job.promoted or not self.load.is_beyond or not self._has_time_for(job, now_s):
            return False
        self.backlog.discard(late.request_id)
        key = hybrid_key(job, job.due_at, 0.0)
        job.promoted = self.backlog.fits(late.request_id, key, late.work_s, late.due_at, now_s)
        self._enqueue(job, now_s)
        return job.promoted

    def _has_time_for(self, job: Job, now_s: float) -> bool:
        """Whether there is time for all requests of this size: those of its tenant, if several share."""
        if self.shares.is_shared(int(job.request.importance)):
            return job.standing < BEYOND
        work_s = job.remaining * self.measured_token_s()
        return work_s <= self.load.worth_s(int(job.request.importance), now_s)

    def _restore(self, now_s: float) -> list[str]:
        """Take back requests that would be in time together with all others."""
        restored: list[str] = []
        for item in self._restorable.take_fitting(self.backlog, now_s):
            job = self.ledger.jobs[item.request_id]
            self.set_aside.discard(item.request_id)
            job.relegated = False
            self.shares.set_aside(job.request, -job.remaining, now_s)
            self._enqueue(job, now_s)
            restored.append(item.request_id)
        return restored

    def in_order(self) -> Iterator[Job]:
        """Yield prefills, most urgent first, those set aside last."""
        jobs = self.ledger.jobs
        for request_id in self.backlog:
            yield jobs[request_id]
        for request_id in self.set_aside:
            yield jobs[request_id]

    def started_in_order(self) -> list[Job]:
        """Return the prefills that have begun, in the same order. O(s log s) for s of them."""
        orders = (self.backlog, self.set_aside)
        return sorted(
            self.ledger.started.values(),
            key=lambda job: (job.relegated, orders[job.relegated].item(job.request_id).key),
        )

    def _enqueue(self, job: Job, now_s: float) -> None:
        work_s = job.remaining * self._token_s
        job.standing = self.shares.standing(job.request, job.remaining)
        weights = (0.0, 0.0) if job.promoted else (self.alpha_s, self.handicap_s)
        key = hybrid_key(job, job.due_at, *weights)
        rank = (NUM_STANDINGS * int(job.request.importance) + job.standing, job.request.priority)
        if job.relegated:
            self._gate.discard(job.request_id)
            self.set_aside.put(job.request_id, (float(rank[0] // WITHIN), key[0]), work_s, job.due_at, rank)
            self._restorable.update(Item(job.request_id, key, work_s, job.due_at, rank))
        else:
            self._gate.wait(job)
            self.backlog.put(job.request_id, key, work_s, job.due_at, rank)

    def _evict(self, request_id: str) -> None:
        super()._evict(request_id)
        self._gate.end(request_id)

    def _dequeue(self, job: Job) -> None:
        self._gate.discard(job.request_id)
        self.backlog.discard(job.request_id)
        self.set_aside.discard(job.request_id)
        self._restorable.discard(job.request_id)
        job.relegated = job.promoted = False

    def _has_backlog(self) -> bool:
        return bool(len(self.backlog) or len(self.set_aside))
