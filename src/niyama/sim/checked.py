"""Debug runs: every plan and every state is checked against the laws, at O(requests) per step."""

from __future__ import annotations

from collections.abc import Callable

from niyama.scheduling.base import BasePolicy
from niyama.scheduling.laws import LawBroken, check_kv, check_plan, check_state, check_times
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import LatencyModel, Launch, Plan, Request, StepOutcome
from niyama.scheduling.promises import Promises, Verdict
from niyama.sim.live import ReplicaLimits
from niyama.sim.replica import Replica
from niyama.sim.verdicts import Served

BOUNDARY_S = 1e-6
"""The two verdicts on a request may differ if it is this close to its promise: they sum differently."""


class CheckedPolicy:
    """A policy that raises `LawBroken` as soon as it, or its host, breaks a law."""

    def __init__(self, policy: BasePolicy) -> None:
        self.name = policy.name
        self.inner = policy
        self._promises = Promises()
        self._verdicts: dict[str, Verdict] = {}
        self._ended_at = 0.0

    def arrive(self, request: Request, now_s: float) -> None:
        """See `Policy.arrive`."""
        check_times(self._ended_at, now_s)
        self._promises.arrive(request)
        self.inner.arrive(request, now_s)

    def depart(self, request_id: str, now_s: float, *, finished: bool = True) -> None:
        """See `Policy.depart`."""
        verdict = self._promises.end(request_id, now_s, aborted=not finished)
        if verdict is not None and finished:
            self._verdicts[request_id] = verdict
        self.inner.depart(request_id, now_s, finished=finished)
        check_state(self.inner)

    def cached(self, request_id: str, num_tokens: int, now_s: float) -> None:
        """See `Policy.cached`."""
        self.inner.cached(request_id, num_tokens, now_s)
        check_state(self.inner)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        """See `Policy.plan`."""
        plan = self.inner.plan(now_s, limits)
        check_plan(self.inner, now_s, limits, plan)
        check_state(self.inner)
        return plan

    def begin(self, launch: Launch) -> None:
        """See `Policy.begin`."""
        self.inner.begin(launch)
        check_state(self.inner)

    def observe(self, outcome: StepOutcome) -> None:
        """See `Policy.observe`."""
        check_times(self._ended_at, outcome.started_at, outcome.ended_at)
        self._ended_at = outcome.ended_at
        self.inner.observe(outcome)
        self._promises.observe(outcome)
        check_state(self.inner)

    def check_served(self, served: Served) -> None:
        """Compare the simulator's strict verdict, and its instants, with the independent ones."""
        request = served.request
        check_times(request.arrived_at, served.first_at, served.finished_at)
        verdict = self._verdicts.pop(request.request_id)
        if abs(verdict.slack_s) > BOUNDARY_S and served.is_late("strict") is (verdict.outcome == "met"):
            raise LawBroken(f"L5: {served} is judged otherwise by the promises: {verdict}")

    def check_host(self, replica: Replica) -> None:
        """Compare the engine's books with the ledger's, and count its blocks (L1, L4)."""
        number = len(replica.ended_at)
        ledger = self.inner.ledger
        if set(ledger.jobs) != set(replica.live):
            raise LawBroken(f"L1: in the policy {sorted(ledger.jobs)}, in the engine {sorted(replica.live)}")
        blocks: list[int] = []
        num_blocks_for = replica.kv.num_blocks_for
        for request_id, live in replica.live.items():
            is_decoding = live.first_step >= 0
            emitted = live.num_emitted + (number - live.first_step if is_decoding else 0)
            if ledger.num_output_tokens(ledger.jobs[request_id]) != emitted:
                raise LawBroken(f"L1: {request_id} emitted {emitted}, its policy thinks otherwise")
            blocks.append(num_blocks_for(live.num_kv_tokens(number)) if is_decoding else live.num_blocks)
        waiting = [r for r in replica.live.values() if not r.is_running and not r.is_relegated]
        counted = (len(waiting), sum(live.num_to_compute for live in waiting))
        if (replica.num_waiting, replica.num_waiting_tokens) != counted:
            raise LawBroken(f"L1: {counted} requests and tokens wait, the engine thinks otherwise")
        check_kv(blocks, replica.kv.free, replica.kv.num_blocks)


class CheckedReplica(Replica):
    """A replica whose own books are checked after every step, too."""

    def __init__(
        self,
        policy: CheckedPolicy,
        profile: LatencyModel,
        limits: ReplicaLimits,
        on_served: Callable[[Served], None],
    ) -> None:
        """See `Replica`."""

        def check_served(served: Served) -> None:
            policy.check_served(served)
            on_served(served)

        super().__init__(policy, profile, limits, check_served)
        self._checked = policy

    def step(self) -> None:
        """See `Replica.step`. Raises LawBroken."""
        super().step()
        self._checked.check_host(self)

    def abort(self, request_id: str) -> None:
        """See `Replica.abort`. Raises LawBroken."""
        super().abort(request_id)
        self._checked.check_host(self)
