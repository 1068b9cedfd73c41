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
from typing import Final

from niyama.compiled import mypyc_attr
from niyama.scheduling.chunking import Filled, fill
from niyama.scheduling.deadlines import Anchor, unhurried_step_s, wary_pace_s
from niyama.scheduling.gate import Gate
from niyama.scheduling.hybrid import HybridOrder
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import BatchShape, LatencyModel, Launch, Plan, Request, StepOutcome
from niyama.scheduling.sitting import GUARD_STEPS, PRESSED_STEPS, Sitting, sit_out
from niyama.scheduling.stalls import Stalls

RESERVE_SHARE: Final = 0.5
"""Of the slack at most this share is kept for a stall: in the long run one token's time, so that a token
may come as late as that."""

SHARE_RATE: Final = 0.05
FORGET_RATE: Final = 0.0002
"""Weight of a step in what sitting out is expected to be worth: one in which something is urgent, and
one in which nothing is."""

CALM_RESERVE: Final = 0.25
"""Short steps leave so much time more than the work that waits is expected to take: they spend up to a fifth
on launches, which all who wait need if they came together (docs/decisions/0022)."""

GATE_LOAD: Final = 0.8
"""The gate is open while less than this share of the engine is asked for."""


@mypyc_attr(allow_interpreted_subclasses=True)
class NiyamaPolicy(HybridOrder):
    """The published mechanisms with a load-following alpha and reversible, feasibility-tested relegation."""

    name = "niyama"
    spares_decodes = True

    def __init__(self, model: LatencyModel, anchor: Anchor = "strict") -> None:
        self._share = 1.0
        self._found_share: float | None = None
        self._sat_in_vain = False
        super().__init__(model, anchor)
        self._stalls = Stalls()
        self._gate = Gate()

    def decode_step_s(self, request: Request, expected_output: int) -> float:
        """See `BasePolicy.decode_step_s`."""
        tightest_s = min(self.paces, default=math.inf)
        return unhurried_step_s(request, expected_output, self.step_s, tightest_s)

    def decode_pace_s(
        self, request: Request, time_left_s: float, expected_output: int, tokens_left: int, step_s: float
    ) -> float:
        """See `BasePolicy.decode_pace_s`."""
        return wary_pace_s(request, time_left_s, expected_output, tokens_left, step_s)

    def depart(self, request_id: str, now_s: float, *, finished: bool = True) -> None:
        """See `Policy.depart`."""
        super().depart(request_id, now_s, finished=finished)
        self._gate.end(request_id)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        """See `Policy.plan`. O(log n) in waiting requests, but for those that the engine cannot start.

        Nothing per decode unless something is urgent.
        """
        self._follow_load(now_s)
        stall_s = self._stalls.stall_s(self.step_s)
        relegated = self._relegate(now_s, stall_s)
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
        """Return how long the step may be for whoever comes; infinite if who waits needs it longer."""
        if not len(self.backlog) or len(self.set_aside):
            return math.inf
        waiting_s = self.backlog.total_s
        calm_s = self.load.calm_step_s(now_s, waiting_s, self.model.predict_s(decodes))
        spare_s = self.backlog.margin - now_s - CALM_RESERVE * waiting_s
        return calm_s if spare_s > calm_s else math.inf

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

    def _evict(self, request_id: str) -> None:
        super()._evict(request_id)
        self._gate.end(request_id)

    def _enqueue(self, job: Job, now_s: float) -> None:
        super()._enqueue(job, now_s)
        if job.relegated:
            self._gate.discard(job.request_id)
        else:
            self._gate.wait(job)

    def _dequeue(self, job: Job) -> None:
        super()._dequeue(job)
        self._gate.discard(job.request_id)
