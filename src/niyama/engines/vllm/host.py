"""Runs a policy inside a vLLM scheduler: plan, steer, take note of what was realised, learn.

Nothing that goes wrong here reaches the engine. A failing policy costs that step its plan: vLLM
schedules in its own order, and a fresh policy takes over the live requests soon after.
"""

from __future__ import annotations

import time
from typing import Any, cast

from niyama.emulation import emulated_words
from niyama.engines.vllm import compat
from niyama.engines.vllm.audit import check_books
from niyama.engines.vllm.blocked import Blocked
from niyama.engines.vllm.books import Books
from niyama.engines.vllm.decisionlog import open_decision_log
from niyama.engines.vllm.inflight import Flight, InFlight
from niyama.engines.vllm.prefix import PrefixCache
from niyama.engines.vllm.realised import completed, differences, extra_tokens, read_launch
from niyama.engines.vllm.recovery import Recovery
from niyama.engines.vllm.steering import Levers
from niyama.engines.vllm.view import is_whole, plain_view, view
from niyama.latency import OnlineModel
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.lawful import lawful
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import Launch, Plan, Prefill, Request, StepOutcome
from niyama.scheduling.recording import Recorded
from niyama.scheduling.registry import make_policy
from niyama.settings import Settings


class Host:
    """One engine's side of the seam.

    Attributes:
        policy: Decides; replaced by a fresh one if it fails.
        books: What is told to the outside.
    """

    def __init__(self, scheduler: Any, settings: Settings, vllm_version: str) -> None:
        self._scheduler = scheduler
        self._settings = settings
        self._model = OnlineModel()
        self._flight = Flight(self._model)
        self._vllm_requests: dict[str, Any] = {}
        self._blocked = Blocked(scheduler, self._vllm_requests)
        self._prefix = PrefixCache(scheduler, self._vllm_requests)
        self._levers = Levers(scheduler, self._blocked)
        self._decisions = open_decision_log(settings, scheduler, vllm_version)
        self.policy: BasePolicy = self._fresh_policy()
        self.books = Books(settings, vllm_version, self._decisions, emulated_words(scheduler.vllm_config))
        self._views: dict[str, Request] = {}
        self._prefilling: dict[str, Any] = {}
        self._decoding: dict[str, None] = {}
        self._sessions: set[str] = set()
        self._preempted: list[str] = []
        self._plan: Plan | None = None
        self._greedy: str | None = None
        self._plan_starts_at = 0.0
        self._recovery = Recovery()
        self._is_stuck = False

    # What vLLM's scheduler tells us ------------------------------------------------------------

    def arrive(self, request: Any) -> None:
        """A request enters vLLM's scheduler."""
        if request.request_id in self._scheduler.requests:
            return  # a further part of a session
        now_s = time.monotonic()
        try:
            compat.drop_fatal_seed(request)
            seen = view(request, self._prefix.watch(request), self._settings.book, now_s)
        except Exception:
            seen = plain_view(request, self._settings.book, now_s)
            self._recovery.fail("arrive")
        # Whatever fails from here on, a fresh policy will know the request.
        self._vllm_requests[request.request_id] = request
        self._views[request.request_id] = seen.request
        if getattr(request, "resumable", False):
            self._sessions.add(request.request_id)
        try:
            self.books.arrive(seen)
            if not self._recovery.is_failed:
                self.policy.arrive(seen.request, now_s)
        except Exception:
            self._recovery.fail("arrive")

    def before_schedule(self) -> None:
        """Decide the next step and set the levers."""
        try:
            self._forget_finished(time.monotonic())
            self._rest_sessions()
        except Exception:
            self._recovery.fail("depart")
        self._plan = None
        self._plan_starts_at = time.monotonic()
        if self._recovery.is_failed:
            self._try_to_recover()
        if not self._recovery.is_failed and not self._is_stuck:
            try:
                self._plan_starts_at = self._flight.starts_at(self._plan_starts_at)
                self._blocked.begin_step()
                if self._settings.check_laws and not self._preempted:
                    check_books(self.policy.ledger, self._scheduler)
                self._plan = self.policy.plan(self._plan_starts_at, self._limits())
                self._greedy = self._levers.apply(
                    self._plan, self._prefilling, self._vllm_requests, self._views
                )
                self._recovery.held()
            except Exception:
                self._plan = None
                self._recovery.fail("plan")
        if self._plan is None:
            if self._recovery.is_failed:
                self.books.fallback()
            self._levers.release()

    def after_schedule(self, output: Any) -> None:
        """Take note of what vLLM launches."""
        try:
            self._begin(output)
        except Exception:
            self._recovery.fail("begin")

    def launched(self) -> None:
        """The launch of the last scheduled step is over."""
        self._flight.launched(time.monotonic())

    def after_step(self, output: Any, runner_output: Any) -> None:
        """Take note of a step's end."""
        try:
            self._end(output, runner_output, time.monotonic())
        except Exception:
            self._recovery.fail("observe")

    def preempted(self, request: Any) -> None:
        """The engine takes a request's KV."""
        self._preempted.append(request.request_id)

    def answer(self, verb: str) -> Any:
        """Answer the outside: `state` or `drain` (see `niyama.telemetry`)."""
        state = self.books.state(self._scheduler, self.policy, self._plan)
        return state if verb == "state" else {"state": state, "events": self.books.drain()}

    # The step ----------------------------------------------------------------------------------

    def _limits(self) -> Limits:
        scheduler = self._scheduler
        return Limits(
            token_budget=self._token_budget(),
            free_seqs=compat.num_free_seqs(scheduler),
            free_kv_tokens=compat.num_free_kv_tokens(scheduler),
            tokens_per_decode=1 + int(scheduler.num_spec_tokens),
            blocked=self._blocked,
            shared=self._prefix,
        )

    def _token_budget(self) -> int:
        """Return vLLM's budget, or less: launching prefill holds the tokens of the step in flight."""
        budget, policy = self._levers.full_budget, self.policy
        if not self._flight or not policy.spares_decodes:
            return budget
        due_at = policy.pacer.tightest(policy.ledger.num_launches - 1)
        if due_at < self._plan_starts_at:
            return budget  # late without the launch, too
        decodes = policy.ledger.decode_shape(1 + int(self._scheduler.num_spec_tokens))
        room_s = due_at - time.monotonic()
        return max(1, min(budget, decodes.num_decode_tokens), self._flight.max_tokens(room_s, budget))

    def _begin(self, output: Any) -> None:
        popped = self._levers.popped()
        # vLLM preempts between steps too: `reset_prefix_cache` takes the KV of all that run.
        preempted, self._preempted = self._preempted, []
        for request_id in preempted:
            self._prefilling.pop(request_id, None)
            self._decoding.pop(request_id, None)
        if self._plan is not None and not preempted:
            scheduler = self._scheduler
            has_room = output.total_num_scheduled_tokens < scheduler.max_num_scheduled_tokens
            put_back = self._levers.put_back()
            self._blocked.learn(
                self._plan, output.num_scheduled_tokens, put_back, self._prefilling, has_room=has_room
            )
        candidates = {**self._prefilling, **popped}
        # Where nothing runs though somebody is there, the engine has its own way for a step.
        ran = bool(output.num_scheduled_tokens)
        self._is_stuck = self._plan is not None and not ran and self._has_reason_to_run(self._plan)
        if not ran and not preempted:
            self._prefilling = candidates
            return
        launch = read_launch(
            output,
            self._plan_starts_at,
            candidates,
            self._decoding,
            len(self._decoding),
            self.policy.ledger.decode_shape().decode_context,
            preempted,
            self._vllm_requests,
        )
        self._prefilling = candidates
        for done in launch.prefills:
            if done.remaining == 0:
                request = self._prefilling.pop(done.request_id)
                self._decoding[done.request_id] = None
                self._levers.begin_decode(request, self._views)
        self._flight.begin(InFlight(output, launch, self._plan, time.monotonic(), self.policy))
        if self._plan is not None:
            self.books.planned(self._plan, differences(self._plan, launch, self._greedy))
        self.books.begin(launch)
        if not self._recovery.is_failed:
            self.policy.begin(launch)
        self._prefix.launched(launch, self._cached)

    def _has_reason_to_run(self, plan: Plan) -> bool:
        """Whether something was planned, or somebody is there and no step in flight will change anything."""
        has_work = bool(self._scheduler.running) or any(map(len, self._levers.queues))
        return bool(plan.chunks) or (has_work and not self._flight)

    def _cached(self, request_id: str, num_tokens: int) -> None:
        if not self._recovery.is_failed:
            self.policy.cached(request_id, num_tokens, self._plan_starts_at)

    def _end(self, output: Any, runner_output: Any, now_s: float) -> None:
        for lost in self._flight.take_lost(output):
            self._observe(lost, StepOutcome(lost.launch, now_s, now_s, is_clean=False))
        ended = self._flight.end(output, now_s, has_work=self._scheduler.has_unfinished_requests())
        if ended is not None:
            launch = ended.step.launch
            outcome = StepOutcome(
                launch=launch,
                started_at=ended.started_at,
                ended_at=now_s,
                completed=completed(launch, runner_output),
                extra_tokens=extra_tokens(launch, output, runner_output, self._decoding),
                is_clean=ended.is_clean,
                lessons=ended.lessons,
            )
            self._observe(ended.step, outcome)
        self._forget_finished(now_s)

    def _observe(self, step: InFlight, outcome: StepOutcome) -> None:
        self.books.observe(outcome, step.plan, self.policy.model)
        if not self._recovery.is_failed and step.policy is self.policy:
            self.policy.observe(outcome)

    def _forget_finished(self, now_s: float) -> None:
        for request_id in self._scheduler.finished_req_ids:
            request = self._vllm_requests.pop(request_id, None)
            if request is None:
                continue
            self._views.pop(request_id, None)
            self._prefilling.pop(request_id, None)
            self._decoding.pop(request_id, None)
            # Its client's further parts count as output: what a session says of lengths is wrong.
            is_session = request_id in self._sessions
            self._sessions.discard(request_id)
            self._blocked.forget(request_id)
            self._prefix.forget(request_id)
            try:
                finished = is_whole(request)
                is_probe = self.books.end(request_id, now_s, aborted=not finished)
                if not self._recovery.is_failed:
                    has_length = finished and not is_probe and not is_session
                    self.policy.depart(request_id, now_s, finished=has_length)
            except Exception:
                self._recovery.fail("depart")

    def _rest_sessions(self) -> None:
        """Tell the policy of sessions (`resumable` requests) whose part has ended: they wait again.

        They keep their KV, but the next part has to be admitted like any waiting request.
        """
        self._blocked.resting.clear()
        for request_id in self._sessions:
            request = self._vllm_requests[request_id]
            if not any(request in queue for queue in self._levers.queues):
                continue
            if request.status.name == "WAITING_FOR_STREAMING_REQ":
                self._blocked.resting.add(request_id)
            if request_id in self._decoding or request_id in self._prefilling:
                self._preempted.append(request_id)

    # When the policy fails ---------------------------------------------------------------------

    def _fresh_policy(self) -> BasePolicy:
        settings = self._settings
        policy = make_policy(settings.policy, self._model, settings.pacing, settings.chunk)
        if settings.check_laws:
            policy = lawful(policy)
        if self._decisions is None:
            return policy
        return cast(BasePolicy, Recorded(policy, self._decisions.write_line))

    def _try_to_recover(self) -> None:
        """After a pause, doubled with every failure, give the live requests to a fresh policy."""
        if not self._recovery.is_due():
            return
        try:
            policy = self._fresh_policy()
            now_s = time.monotonic()
            for request_id in self._vllm_requests:
                policy.arrive(self._views[request_id], now_s)
            launch = Launch(now_s, self._all_started(), policy.ledger.decode_shape())
            policy.begin(launch)
            policy.observe(StepOutcome(launch, now_s, now_s, completed=list(self._decoding), is_clean=False))
        except Exception:
            self._recovery.failed_again()
            return
        self.policy = policy
        self.books.recovered()
        self._recovery.recovered()

    def _all_started(self) -> list[Prefill]:
        """Return how far every request has come that has begun."""
        requests = self._vllm_requests
        computed = {i: int(requests[i].num_computed_tokens) for i in (*self._prefilling, *self._decoding)}
        left = {i: max(1, int(requests[i].num_tokens) - computed[i]) for i in self._prefilling}
        return [Prefill(i, 0, done, left.get(i, 0)) for i, done in computed.items()]
