"""Decision parity: the recorded calls, made again to a fresh policy, must give the recorded plans."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from niyama.latency import OnlineModel
from niyama.scheduling.policy import LatencyModel, Launch, Policy
from niyama.scheduling.recording import Call, launch_from_mapping, plan_to_mapping, tell
from niyama.scheduling.registry import make_policy
from niyama.settings import Settings

MAX_SHOWN = 10
"""Differing plans that are told in full."""


@dataclass(slots=True)
class Parity:
    """What came of a log's calls, made again.

    Attributes:
        num_steps: Launches of the engine.
        num_plans: Plans on record, those that failed included.
        num_same: Plans made anew that equal the recorded ones in every field, to the last bit.
        num_unplanned: Launches in vLLM's own order, without a plan.
        num_realised_otherwise: Launches that differ from their plan.
        causes: In how many requests, or steps, by cause (`niyama.engines.vllm.realised`).
        differences: The first plans that differ: call number, and by field what was recorded and made.
    """

    num_steps: int = 0
    num_plans: int = 0
    num_same: int = 0
    num_unplanned: int = 0
    num_realised_otherwise: int = 0
    causes: Counter[str] = field(default_factory=Counter[str])
    differences: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def to_mapping(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "steps": self.num_steps,
            "plans": self.num_plans,
            "plans_same": self.num_same,
            "plans_different": self.num_plans - self.num_same,
            "steps_unplanned": self.num_unplanned,
            "steps_realised_otherwise": self.num_realised_otherwise,
            "realised_otherwise_by_cause": dict(sorted(self.causes.items())),
            "first_differences": self.differences,
        }


def check_parity(calls: Iterable[Call], model: LatencyModel | None = None) -> Parity:
    """Make the calls of a decision log to fresh policies and compare the plans.

    Args:
        calls: From `decisions.read_calls`.
        model: The step-time model at the start; None for a new online learner, as a server has.

    Raises:
        SettingsError, ValueError: the settings on record cannot be used here.
    """
    again = _Again(model)
    for number, call in enumerate(calls):
        again.take(call, number)
    return again.found


class _Again:
    """Makes recorded calls. A policy that raises is left alone until the log has a fresh one."""

    def __init__(self, model: LatencyModel | None) -> None:
        self.found = Parity()
        self._given_model = model
        self._model: LatencyModel = model or OnlineModel()
        self._settings = Settings()
        self._policy: Policy | None = None
        self._in_flight: deque[Launch] = deque()
        self._has_plan = False

    def take(self, call: Call, number: int) -> None:
        match call["call"]:
            case "start":
                self._settings = Settings.from_mapping(call["settings"])
                self._model = self._given_model or OnlineModel()
                self._policy, self._has_plan = None, False
                self._in_flight.clear()
            case "fresh":
                settings = self._settings
                self._policy = make_policy(settings.policy, self._model, settings.pacing, settings.chunk)
                self._in_flight.clear()
            case "realised":
                self.found.num_realised_otherwise += 1
                self.found.causes.update(call["causes"])
            case kind:
                self._count(kind)
                self._tell(call, number)

    def _count(self, kind: str) -> None:
        if kind == "plan":
            self.found.num_plans += 1
            self._has_plan = True
        elif kind == "begin":
            self.found.num_steps += 1
            self.found.num_unplanned += not self._has_plan
            self._has_plan = False

    def _tell(self, call: Call, number: int) -> None:
        launch = None
        if call["call"] == "begin":
            self._in_flight.append(launch_from_mapping(call))
        elif call["call"] == "observe" and self._in_flight:
            launch = self._in_flight.popleft()
        made: dict[str, Any] | None = None
        if self._policy is not None:
            try:
                plan = tell(self._policy, call, launch)
                made = None if plan is None else plan_to_mapping(plan)
            except Exception:
                # The recorded policy raised here as well, unless the comparison below tells otherwise.
                self._policy = None
        if call["call"] == "plan":
            self._compare(call["plan"], made, number)

    def _compare(self, recorded: dict[str, Any] | None, made: dict[str, Any] | None, number: int) -> None:
        if recorded == made:
            self.found.num_same += 1
        elif len(self.found.differences) < MAX_SHOWN:
            old, new = recorded or {}, made or {}
            fields = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            told = {key: {"recorded": old.get(key), "made": new.get(key)} for key in fields}
            self.found.differences.append({"call": number, "fields": json.loads(json.dumps(told))})
