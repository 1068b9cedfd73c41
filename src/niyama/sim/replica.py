"""One engine in virtual time: applies each plan exactly and counts what a step costs.

Nothing is done per decoding request and step. A request that emits its first token in step s and
n tokens in all emits its last in step s + n - 1, and is looked at again then; its blocks grow by
a count per step (`kv`); its gaps and its pace follow from the instants at which the steps ended.
Only when memory is short are the running requests gone through one by one (`pressure`).
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from niyama.compiled import mypyc_attr
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import LatencyModel, Launch, Plan, Policy, Prefill, StepOutcome
from niyama.sim.kv import KvPool
from niyama.sim.live import Gaps, Live, ReplicaLimits
from niyama.sim.pressure import Squeeze
from niyama.sim.verdicts import Served, worst_lag_s
from niyama.workload.generate import Arrival


@mypyc_attr(allow_interpreted_subclasses=True)
class Replica:
    """A policy and the engine that it schedules.

    Attributes:
        now_s: End of the last step, or the arrival that ended the last idle time.
        ended_at: When each step's tokens came out, by step number.
        gaps: By class.
        num_preemptions: Requests that lost their KV, every time counted.
        live: Requests that are in, by id.
        num_running: Requests that hold KV.
        num_waiting: Requests that hold none, and were never set aside.
        num_waiting_tokens: Tokens of KV that those need before their next output token.
    """

    def __init__(
        self,
        policy: Policy,
        profile: LatencyModel,
        limits: ReplicaLimits,
        on_served: Callable[[Served], None],
    ) -> None:
        """Start empty at instant 0; `on_served` hears of every finished request."""
        self.policy = policy
        self.profile = profile
        self.limits = limits
        self.now_s = 0.0
        self.kv = KvPool(limits.num_kv_tokens // limits.block_tokens, limits.block_tokens)
        self.live: dict[str, Live] = {}
        self.ended_at = array("d")
        self.gaps: defaultdict[str, Gaps] = defaultdict(Gaps)
        self.num_preemptions = 0
        self.num_running = 0
        self.num_waiting = 0
        self.num_waiting_tokens = 0
        self.stalled: dict[str, Live] = {}
        self._resumed: list[Live] = []
        self._on_served = on_served
        self._last_steps: defaultdict[int, list[Live]] = defaultdict(list)

    def arrive(self, arrival: Arrival) -> None:
        """Take in a request that arrived at `now_s` or before; an idle engine wakes up for it.

        Raises:
            ValueError: its KV would never fit.
        """
        request, num_output = self.as_served(arrival)
        num_tokens = request.num_prompt_tokens + num_output
        num_blocks = self.kv.num_blocks_for(num_tokens)
        if num_blocks > self.kv.num_blocks:
            raise ValueError(
                f"num_kv_tokens: {self.limits.num_kv_tokens} cannot hold request {request.request_id} with "
                f"{num_tokens} tokens; allowed: at least {num_blocks * self.kv.block_tokens}"
            )
        if not self.live:
            self.now_s = max(self.now_s, request.arrived_at)
        live = self.live[request.request_id] = Live(request, num_output)
        self._count_waiting(live, 1)
        self.policy.arrive(request, self.now_s)

    def as_served(self, arrival: Arrival) -> Arrival:
        """Return what an arrival is to a replica of this role; the same if done twice."""
        request, num_output = arrival
        if self.limits.role == "prefill":
            num_output = 1
        elif self.limits.role == "decode":
            request = replace(request, num_cached_tokens=request.num_prompt_tokens - 1)
        return Arrival(request, num_output)

    def step(self) -> None:
        """Run one step. Raises RuntimeError if the policy runs nothing though requests are in."""
        started_at, number = self.now_s, len(self.ended_at)
        plan = self.policy.plan(started_at, self._room())
        for request_id in plan.relegated:
            live = self.live[request_id]
            if not live.is_running:
                self._count_waiting(live, -1)
            live.is_relegated = True
        launch = self._launch(plan, number)
        if not (launch.shape.num_prefill_tokens or launch.shape.num_decode_tokens):
            raise RuntimeError(
                f"{self.policy.name}: an empty step at {started_at} s, {len(self.live)} are in"
            )
        self.policy.begin(launch)
        self.now_s = ended_at = started_at + self.profile.predict_s(launch.shape)
        self.ended_at.append(ended_at)
        completed = [done.request_id for done in launch.prefills if not done.remaining]
        for request_id in completed:
            self._emit_first(self.live[request_id], number)
        for live in self._resumed:
            self.gaps[live.request.qos_class].others_s.append(ended_at - live.last_at)
        self._resumed.clear()
        self.policy.observe(StepOutcome(launch, started_at, ended_at, completed))
        for live in self._last_steps.pop(number, ()):
            self._finish(live, number)

    def abort(self, request_id: str) -> None:
        """Let go of a request whose client has left, between two steps; unknown ids pass."""
        live = self.live.pop(request_id, None)
        if live is None:
            return
        if live.first_step >= 0:
            self._break_off(live, len(self.ended_at))
        self.stalled.pop(request_id, None)
        self.kv.free += live.num_blocks
        self.num_running -= live.is_running
        if not live.is_running:
            self._count_waiting(live, -1)
        self.policy.depart(request_id, self.now_s, finished=False)

    # For `pressure`, and tests -------------------------------------------------------------------

    def decoding(self) -> list[Live]:
        """Return who decodes; O(requests)."""
        return [live for live in self.live.values() if live.first_step >= 0]

    def compute(self, live: Live, num_tokens: int) -> Prefill:
        """Run a chunk of a prefill; its blocks are free."""
        if not live.is_running:
            live.is_running = True
            self.num_running += 1
            self._count_waiting(live, -1)
            live.computed = live.num_cached
        live.computed += num_tokens
        num_blocks = self.kv.num_blocks_for(live.computed)
        self.kv.free -= num_blocks - live.num_blocks
        live.num_blocks = num_blocks
        return Prefill(
            live.request.request_id, num_tokens, live.computed, live.num_to_compute - live.computed
        )

    def preempt(self, live: Live, number: int) -> None:
        """Take a running request's KV before step `number`; it waits again."""
        if live.first_step >= 0:
            self._break_off(live, number)
        self.stalled.pop(live.request_id, None)
        self.kv.free += live.num_blocks
        live.computed = live.num_blocks = 0
        live.is_running = False
        live.num_preempted += 1
        self.num_preemptions += 1
        self.num_running -= 1
        self._count_waiting(live, 1)

    def stall(self, live: Live, number: int) -> None:
        """Let a decoding request sit out from step `number` on, its KV kept."""
        self._break_off(live, number)
        self.stalled[live.request_id] = live

    def resume(self, live: Live, number: int) -> None:
        """Let a stalled request emit a token in step `number`; a block for it is free."""
        del self.stalled[live.request_id]
        live.computed += 1
        num_blocks = self.kv.num_blocks_for(live.computed)
        self.kv.free -= num_blocks - live.num_blocks
        live.num_blocks = num_blocks
        self._begin_stretch(live, number)
        self._resumed.append(live)

    # Private -------------------------------------------------------------------------------------

    def _count_waiting(self, live: Live, change: int) -> None:
        """Count a request that waits, or does no longer; those set aside are left out."""
        if not live.is_relegated:
            self.num_waiting += change
            self.num_waiting_tokens += change * live.num_to_compute

    def _room(self) -> Limits:
        limits = self.limits
        return Limits(
            limits.max_num_batched_tokens,
            limits.max_num_seqs - self.num_running,
            self.kv.num_free_tokens,
        )

    def _launch(self, plan: Plan, number: int) -> Launch:
        """Run the plan, in full unless memory is short."""
        growth = self.kv.growth(number)
        if plan.stalled or self.stalled or growth + self._num_new_blocks(plan) > self.kv.free:
            return Squeeze(self, plan, number).launch()
        self.kv.free -= growth
        prefills = [self.compute(self.live[request_id], n) for request_id, n in plan.chunks]
        return Launch(self.now_s, prefills, plan.shape)

    def _num_new_blocks(self, plan: Plan) -> int:
        """Return the blocks that the plan's chunks need."""
        num_blocks = 0
        for request_id, num_tokens in plan.chunks:
            live = self.live[request_id]
            computed = live.computed if live.is_running else live.num_cached
            num_blocks += self.kv.num_blocks_for(computed + num_tokens) - live.num_blocks
        return num_blocks

    def _emit_first(self, live: Live, number: int) -> None:
        """Begin to decode with the token that ends the prefill."""
        if live.first_at < 0:
            live.first_at = self.now_s
        else:
            self._resumed.append(live)
        self._begin_stretch(live, number)

    def _begin_stretch(self, live: Live, number: int) -> None:
        live.first_step = number
        self.kv.join(number + 1, live.computed)
        self._last_steps[live.last_step].append(live)

    def _break_off(self, live: Live, number: int) -> None:
        """End a stretch before step `number`, sooner than expected."""
        self._last_steps[live.last_step].remove(live)
        self._end_stretch(live, number - 1)

    def _end_stretch(self, live: Live, last: int) -> None:
        """Account for the tokens that a request emitted up to step `last`."""
        first, request = live.first_step, live.request
        tbt_s = request.slo.tbt_s
        if tbt_s is not None:
            worst_s = worst_lag_s(self.ended_at[first : last + 1], tbt_s, live.num_emitted)
            live.worst_s = max(live.worst_s, worst_s)
        if last > first:
            gaps = self.gaps[request.qos_class]
            gaps.first_steps.append(first + 1)
            gaps.last_steps.append(last)
        self.kv.leave(first + 1, live.computed)
        live.num_emitted += last - first + 1
        live.computed += last - first
        live.num_blocks = self.kv.num_blocks_for(live.computed)
        live.last_at = self.ended_at[last]
        live.first_step = -1

    def _finish(self, live: Live, number: int) -> None:
        self._end_stretch(live, number)
        self.kv.free += live.num_blocks
        self.num_running -= 1
        del self.live[live.request_id]
        self.policy.depart(live.request_id, self.now_s)
        self._on_served(
            Served(
                live.request,
                live.first_at,
                self.now_s,
                live.num_emitted,
                live.worst_s,
                live.is_relegated,
                live.num_preempted,
            )
        )
