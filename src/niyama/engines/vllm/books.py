"""What the engine tells the outside: counts, verdicts, the step log, and the state page."""

from __future__ import annotations

import logging
import time
from itertools import islice
from typing import Any, cast

from niyama.asking import UNKNOWN_CLASS
from niyama.engines.vllm.decisionlog import DecisionLog
from niyama.engines.vllm.gaps import TokenGaps
from niyama.engines.vllm.steplog import StepLog
from niyama.engines.vllm.view import Viewed
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.deadlines import last_token_due_at
from niyama.scheduling.policy import LatencyModel, Launch, Plan, StepOutcome
from niyama.scheduling.promises import Promises
from niyama.settings import Settings
from niyama.telemetry import ClassState, Drained, State, StepModelState, Telemetry, finite

logger = logging.getLogger(__name__)

MAX_SCANNED = 256
"""Waiting requests looked at for the tightest slack, in order of urgency."""

QUEUED, PREFILLING, DECODING = range(3)


class _Track:
    """A live request as it is counted."""

    __slots__ = ("is_relegated", "phase", "qos_class", "was_relegated")

    def __init__(self, qos_class: str) -> None:
        self.qos_class = qos_class
        self.phase = QUEUED
        self.is_relegated = False
        self.was_relegated = False


class Books:
    """Counts what happens, per class. A step costs O(classes + prefills)."""

    def __init__(
        self,
        settings: Settings,
        vllm_version: str,
        decisions: DecisionLog | None = None,
        emulated: str | None = None,
    ) -> None:
        self._book = settings.book
        self._vllm_version = vllm_version
        self._emulated = emulated
        self._telemetry = Telemetry(settings.book.classes)
        self._promises = Promises()
        self._log = StepLog(settings.step_log) if settings.step_log else None
        self._decisions = decisions
        self._tracks: dict[str, _Track] = {}
        self._counts = {name: [0, 0, 0] for name in settings.book.classes}
        self._gaps = TokenGaps(settings.book.classes)
        self._num_steps = 0
        self._chunk_tokens = 0
        self._known_problems: set[str] = set()

    def arrive(self, seen: Viewed) -> None:
        """Count a request; our own probes are not counted."""
        if seen.problem is not None:
            self._note_problem(seen.problem, seen.problem_code)
        if not seen.is_probe:
            self._promises.arrive(seen.request)
            self._tracks[seen.request.request_id] = _Track(seen.request.qos_class)
            self._counts[seen.request.qos_class][QUEUED] += 1

    def planned(self, plan: Plan, differences: dict[str, int]) -> None:
        """Count a plan's decisions, and what vLLM realised otherwise; before `begin` of its launch.

        A relegated request may end its prefill in the very step that relegates it, and is one no more.
        """
        if self._decisions is not None:
            self._decisions.realised(differences)
        for cause, count in differences.items():
            self._telemetry.realised(cause, count)
        for note, passed_over in ((self._telemetry.held, plan.held), (self._telemetry.sat_out, plan.stalled)):
            for request_id in passed_over:
                if request_id in self._tracks:
                    note(self._tracks[request_id].qos_class, 1)
        for request_id in plan.relegated:
            track = self._tracks.get(request_id)
            if track is not None:
                track.is_relegated = track.was_relegated = True
                self._telemetry.relegated(track.qos_class)
        for request_id in plan.restored:
            track = self._tracks.get(request_id)
            if track is not None:
                track.is_relegated = False
                self._telemetry.restored(track.qos_class)

    def begin(self, launch: Launch) -> None:
        """Count a launch."""
        for request_id in launch.preempted:
            self._move(request_id, QUEUED)
        begun: list[tuple[str, str]] = []
        for done in launch.prefills:
            self._move(done.request_id, PREFILLING if done.remaining else DECODING)
            if not done.remaining and done.request_id in self._tracks:
                track = self._tracks[done.request_id]
                track.is_relegated = False
                begun.append((done.request_id, track.qos_class))
        self._gaps.begin(launch, begun)
        self._num_steps += 1
        self._chunk_tokens = launch.shape.num_prefill_tokens

    def observe(self, outcome: StepOutcome, plan: Plan | None, model: LatencyModel) -> None:
        """Count a step's end."""
        duration_s = outcome.ended_at - outcome.started_at
        shape = outcome.launch.shape
        predicted_s = model.predict_s(shape)
        self._telemetry.step(duration_s, predicted_s, shape.num_prefill_tokens)
        for gap in self._gaps.observe(outcome):
            self._telemetry.gaps(*gap)
        for request in self._promises.observe(outcome):
            self._telemetry.tbt_violations(request.qos_class, 1)
        if self._log is not None:
            self._log.write(outcome, plan, predicted_s, model.margin_s(predicted_s))

    def end(self, request_id: str, now_s: float, *, aborted: bool) -> bool:
        """Count a request that is gone; return whether it was a probe."""
        track = self._tracks.pop(request_id, None)
        self._gaps.end(request_id)
        verdict = self._promises.end(request_id, now_s, aborted=aborted)
        if track is None or verdict is None:
            return True
        self._counts[track.qos_class][track.phase] -= 1
        self._telemetry.finished(
            track.qos_class,
            verdict.outcome,
            verdict.ttft_s,
            verdict.ttlt_s,
            finite(verdict.slack_s),
            track.was_relegated,
        )
        return False

    def recovered(self) -> None:
        """A fresh policy is in force, which has set nobody aside."""
        for track in self._tracks.values():
            track.is_relegated = False

    def fallback(self) -> None:
        """Count a step that was left to vLLM's own order."""
        self._telemetry.fallback()

    def drain(self) -> Drained:
        """Return what happened since the last drain."""
        return self._telemetry.drain()

    def close(self) -> None:
        """End the logs."""
        for log in (self._log, self._decisions):
            if log is not None:
                log.close()

    def state(self, scheduler: Any, policy: BasePolicy, plan: Plan | None) -> State:
        """Return the state page. O(live requests), some tens of nanoseconds each."""
        num_running, num_waiting = scheduler.get_request_counts()
        load = getattr(policy, "load", None)
        now_s = time.monotonic()
        return {
            "policy": policy.name,
            "vllm_version": self._vllm_version,
            "emulated": self._emulated,
            "step": self._num_steps,
            "num_running": num_running,
            "num_waiting": num_waiting,
            "chunk_tokens": self._chunk_tokens,
            "token_budget": int(scheduler.max_num_scheduled_tokens),
            "alpha_s_per_token": finite(getattr(policy, "alpha_s", None)),
            "load": None if load is None else finite(load.share(now_s)),
            "kv_usage": float(scheduler.kv_cache_manager.usage),
            "step_model": cast(StepModelState, policy.model.stats()),
            "fallback_steps": self._telemetry.fallback_total,
            "realised": self._telemetry.realised_total,
            "classes": self._class_states(policy, plan, now_s),
        }

    def _class_states(self, policy: BasePolicy, plan: Plan | None, now_s: float) -> dict[str, ClassState]:
        slacks = self._tightest_slacks(policy, now_s)
        relegated = dict.fromkeys(self._counts, 0)
        relegated_queued = dict.fromkeys(self._counts, 0)
        for track in self._tracks.values():
            if track.is_relegated:
                relegated[track.qos_class] += 1
                relegated_queued[track.qos_class] += track.phase == QUEUED
        held = dict.fromkeys(self._counts, 0)
        for request_id in plan.held if plan is not None else ():
            track_or_none = self._tracks.get(request_id)
            if track_or_none is None or track_or_none.is_relegated:
                continue
            # Since the plan, vLLM may have taken its KV, or run it all the same.
            held[track_or_none.qos_class] += track_or_none.phase == PREFILLING
        states: dict[str, ClassState] = {}
        for name, qos_class in self._book.classes.items():
            queued, prefilling, decoding = self._counts[name]
            slo = qos_class.slo
            states[name] = {
                **self._telemetry.totals(name),
                "queued": queued - relegated_queued[name],
                "prefilling": prefilling - held[name] - (relegated[name] - relegated_queued[name]),
                "decoding": decoding,
                "held": held[name],
                "relegated": relegated[name],
                "tightest_slack_s": finite(slacks.get(name)),
                "slo": {"ttft_s": slo.ttft_s, "tbt_s": slo.tbt_s, "ttlt_s": slo.ttlt_s},
                "importance": qos_class.importance.name.lower(),
            }
        return states

    def _tightest_slacks(self, policy: BasePolicy, now_s: float) -> dict[str, float]:
        """Return each class's least slack over decodes and the most urgent prefills."""
        slacks: dict[str, float] = {}
        jobs, launch = policy.ledger.jobs, policy.ledger.num_launches
        for request_id, due_at in policy.pacer.all_due(launch):
            job = jobs[request_id]
            slo, name = job.request.slo, job.request.qos_class
            # Without a TBT the pace is the policy's own means; the promise is the last token.
            left = max(1, job.expected_output - policy.ledger.num_output_tokens(job))
            slack_s = last_token_due_at(job.request) - now_s - left * policy.step_s
            if slo.tbt_s is not None:
                slack_s = min(slack_s, due_at - now_s)
            slacks[name] = min(slacks.get(name, float("inf")), slack_s)
        for job in islice(policy.in_order(), MAX_SCANNED):
            name = job.request.qos_class
            slack_s = job.due_at - now_s - job.remaining * policy.token_s
            slacks[name] = min(slacks.get(name, float("inf")), slack_s)
        return slacks

    def _move(self, request_id: str, phase: int) -> None:
        track = self._tracks.get(request_id)
        if track is not None and track.phase != phase:
            counts = self._counts[track.qos_class]
            counts[track.phase] -= 1
            counts[phase] += 1
            track.phase = phase

    def _note_problem(self, problem: str, code: str | None) -> None:
        """Count an ask that could not be answered with an error here; log each kind once."""
        key = problem.partition(":")[0]
        if code == UNKNOWN_CLASS:
            self._telemetry.unknown_class()
        if key not in self._known_problems:
            self._known_problems.add(key)
            logger.warning("Niyama: a request's wish was ignored (said once per key): %s", problem)
