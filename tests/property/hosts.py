"""A small engine for tests: runs any policy against the clock of a step-time model.

It realises plans like vLLM: decodes first, then started prefills, then waiting ones; whoever
comes last loses its KV when memory is short; a waiting request that cannot get memory ends the scan. With
`depth` 2 the next step is planned and begun before the last one is observed. Every plan and every
state is checked against the laws, and the ledger against this host's own, naive, counts.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from tests.property.enginestep import BLOCK, EngineStep, Event

from niyama.latency import LinearProfile
from niyama.latency.profiles import LinearCost
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.laws import check_kv, check_plan, check_state, check_times
from niyama.scheduling.ledger import Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import Launch, Plan, Request, StepOutcome
from niyama.scheduling.promises import Promises, Verdict


def linear_model(
    fixed_s: float = 1 / 64, token_s: float = 1 / 4096, decode_s: float = 1 / 4096, margin: float = 0.0
) -> LinearProfile:
    """Return a step time of so much, plus so much per prefill token and per decode."""
    cost = LinearCost(fixed_s, 0.0, token_s, decode_s, 0.0, 0.0)
    return LinearProfile("test", cost, cost, 512, margin)


def least_slack_s(request: Request, token_at: list[float]) -> float:
    """Return the least time left at any token of an answer, by the definition (criterion strict)."""
    slo, first_at = request.slo, token_at[0]
    slacks = [math.inf]
    if slo.ttft_s is not None:
        slacks.append(request.arrived_at + slo.ttft_s - first_at)
    if slo.tbt_s is not None:
        slacks += [first_at + n * slo.tbt_s - at for n, at in enumerate(token_at) if n]
    if slo.ttlt_s is not None:
        slacks.append(request.arrived_at + slo.ttlt_s - token_at[-1])
    return min(slacks)


@dataclass(slots=True)
class Live:
    """A request as the engine has it; `num_output` is what no policy may know."""

    request: Request
    num_output: int
    num_cached: int
    phase: Phase = Phase.WAITING
    computed: int = 0
    launched: int = 0
    blocks: int = 0
    token_at: list[float] = field(default_factory=list)
    scheduled_at: float | None = None
    is_held: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens to be in KV before the next output token."""
        return self.request.num_prompt_tokens + self.launched


class Running(NamedTuple):
    """A launched step and when it ends."""

    launch: Launch
    decodes: list[str]
    started_at: float
    ended_at: float


@dataclass
class Host:
    """One engine; `step` runs one step of it."""

    policy: BasePolicy
    num_blocks: int = 1024
    max_seqs: int = 64
    token_budget: int = 512
    depth: int = 1
    num_spec: int = 0
    slowness: tuple[float, ...] = (1.0,)
    now_s: float = 0.0
    live: dict[str, Live] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    outputs: dict[str, list[float]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    stalls: set[str] = field(default_factory=set)
    reserved: int = 0
    num_plans_at_first_finish: int = 0

    def __post_init__(self) -> None:
        self.promises = Promises()
        self._in_flight: deque[Running] = deque()
        self._running: list[Live] = []
        self._free_at = self.now_s
        self._num_empty = 0

    @property
    def free_blocks(self) -> int:
        """Blocks that can be allocated."""
        return self.num_blocks - self.reserved - sum(x.blocks for x in self.live.values())

    @property
    def num_in_flight(self) -> int:
        """Steps launched and not yet observed."""
        return len(self._in_flight)

    def arrive(self, request: Request, num_output: int, num_cached: int | None = None) -> None:
        """Take a request; `num_cached` tokens turn out to be cached when it starts."""
        cached = request.num_cached_tokens if num_cached is None else num_cached
        self.live[request.request_id] = Live(request, num_output, min(cached, request.num_prompt_tokens - 1))
        self.promises.arrive(request)
        self.policy.arrive(request, self.now_s)
        check_state(self.policy)

    def abort(self, request_id: str) -> None:
        """A client goes away."""
        self._end(request_id, aborted=True)
        check_state(self.policy)

    def step(self) -> bool:
        """Plan and launch a step, then end the oldest if the pipeline is full; False when idle."""
        launched = self._launch()
        if self._in_flight and (not launched or len(self._in_flight) >= self.depth):
            self._observe(self._in_flight.popleft())
            return True
        return launched

    def run(self, max_steps: int = 5000) -> None:
        """Run until nobody is left (L10)."""
        for _ in range(max_steps):
            if not self.step() and not self.live:
                return
        raise AssertionError(f"L10: {len(self.live)} of them never finish: {list(self.live)[:8]}")

    # Launching ---------------------------------------------------------------------------------

    def _launch(self) -> bool:
        start_s = max(self.now_s, self._free_at)
        limits = Limits(
            self.token_budget,
            self.max_seqs - len(self._running),
            self.free_blocks * BLOCK,
            1 + self.num_spec,
        )
        plan = self.policy.plan(start_s, limits)
        check_plan(self.policy, start_s, limits, plan)
        check_state(self.policy)
        self.plans.append(plan)
        self._note(plan, start_s)
        self.seen["sits out"] += len(plan.stalled)
        step = EngineStep(self, plan)
        step.realise()
        if not step.prefills and not step.decodes and not step.preempted:
            return False
        decoding = [x.request.request_id for x in self._decoding() if x.request.request_id not in step.done]
        launch = Launch(
            at=start_s,
            prefills=list(step.prefills.values()),
            shape=step.shape,
            stalled=[i for i in decoding if i not in step.decodes],
            preempted=step.preempted,
        )
        self.seen["stalled"] += len(launch.stalled)
        self.seen["preempted"] += len(launch.preempted)
        for i in step.decodes:
            self.live[i].launched += 1
        for i in step.done:
            self.live[i].launched += 1
        for x in self.live.values():
            if x.phase is Phase.DECODING:
                x.computed = x.num_tokens - 1
        self.policy.begin(launch)
        share = self.slowness[len(self.plans) % len(self.slowness)]
        self._free_at = start_s + self.policy.model.predict_s(step.shape) * share
        self._in_flight.append(Running(launch, step.decodes, start_s, self._free_at))
        self.check()
        return True

    def _decoding(self) -> list[Live]:
        return [x for x in self._running if x.phase is Phase.DECODING]

    def _note(self, plan: Plan, at: float) -> None:
        for what, ids in (("relegate", plan.relegated), ("restore", plan.restored)):
            self.events += [Event(at, i, what) for i in ids]
            self.seen[what] += len(ids)
        for i in plan.held:
            if not self.live[i].is_held:
                self.live[i].is_held = True
                self.events.append(Event(at, i, "hold"))
                self.seen["held"] += 1

    # Observing ---------------------------------------------------------------------------------

    def _observe(self, step: Running) -> None:
        check_times(self.now_s, step.ended_at)
        self.now_s = step.ended_at
        completed = [p.request_id for p in step.launch.prefills if p.remaining == 0]
        extra = {i: n for i in step.decodes if (n := self._extra(i)) > 0}
        self.seen["extra"] += len(extra)
        outcome = StepOutcome(step.launch, step.started_at, step.ended_at, completed, extra)
        self.policy.observe(outcome)
        self.promises.observe(outcome)
        for i in (*completed, *step.decodes):
            x = self.live.get(i)
            if x is None:
                continue
            if x.phase is Phase.DECODING:
                x.launched += extra.get(i, 0)
                x.computed = x.num_tokens - 1
            if not x.token_at:
                self.events.append(Event(self.now_s, i, "first"))
            x.token_at += [self.now_s] * (1 + extra.get(i, 0))
            if len(x.token_at) >= x.num_output:
                self.num_plans_at_first_finish = self.num_plans_at_first_finish or len(self.plans)
                self.events.append(Event(self.now_s, i, "finish"))
                self._end(i)
        self.check()

    def _extra(self, request_id: str) -> int:
        """Accepted speculative tokens: some, but the same in every run."""
        x = self.live.get(request_id)
        if x is None or not self.num_spec or x.phase is not Phase.DECODING:
            return 0
        luck = crc32(f"{request_id}/{len(x.token_at)}".encode()) % (self.num_spec + 1)
        return max(0, min(luck, x.num_output - len(x.token_at) - 1))

    def _end(self, request_id: str, *, aborted: bool = False) -> None:
        x = self.live.pop(request_id)
        if x in self._running:
            self._running.remove(x)
        self.stalls.discard(request_id)
        self.policy.depart(request_id, self.now_s, finished=not aborted)
        verdict = self.promises.end(request_id, self.now_s, aborted=aborted)
        assert verdict is not None
        self.verdicts[request_id] = verdict
        self.outputs[request_id] = x.token_at
        if not aborted:
            assert x.scheduled_at is not None
            check_times(x.request.arrived_at, x.scheduled_at, *x.token_at)
            slack_s = least_slack_s(x.request, x.token_at)
            if abs(slack_s) > 1e-9:
                assert verdict.outcome == ("met" if slack_s > 0 else "missed"), (request_id, slack_s, verdict)

    def check(self) -> None:
        """Check the policy's books, and that its ledger says what this host knows."""
        check_state(self.policy)
        check_kv([x.blocks for x in self.live.values()], self.free_blocks + self.reserved, self.num_blocks)
        ledger = self.policy.ledger
        assert set(ledger.jobs) == set(self.live), "L1: a request is lost"
        for i, x in self.live.items():
            job = ledger.jobs[i]
            assert job.phase is x.phase, (i, job.phase, x.phase)
            assert ledger.num_output_tokens(job) == x.launched, (i, ledger.num_output_tokens(job), x.launched)
            if x.phase is Phase.PREFILLING:
                assert (job.computed, job.remaining) == (x.computed, x.num_tokens - x.computed), i
        decoding = [x for x in self.live.values() if x.phase is Phase.DECODING]
        assert ledger.decode_shape()[1:3] == (len(decoding), sum(x.computed for x in decoding))
