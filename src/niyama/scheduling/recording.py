"""All that a policy is told and decides, call by call, in a form that goes through JSON unchanged.

A policy is deterministic and sees nothing but these calls, so the same calls to a fresh policy give
the same plans. That is how a recorded run is checked (`niyama.bench.parity`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from niyama.qos import Importance, Slo
from niyama.scheduling.limits import NOBODY, NOTHING_SHARED, Limits, SharedKv
from niyama.scheduling.policy import (
    BatchShape,
    Launch,
    Plan,
    Policy,
    Prefill,
    Request,
    StepOutcome,
)

Call = dict[str, Any]
"""A call as a JSON object; `call` says which: fresh, arrive, depart, cached, plan, begin or observe."""


class _Met:
    """Those of the blocked that were asked for, which is all that a plan depends on."""

    def __init__(self, blocked: Container[str]) -> None:
        self.met: set[str] = set()
        self._blocked = blocked

    def __contains__(self, request_id: object) -> bool:
        is_in = request_id in self._blocked
        if is_in:
            self.met.add(str(request_id))
        return is_in


class _Heard(SharedKv):
    """What was told of shared KV; also tells it again."""

    def __init__(self, shared: SharedKv, told: Mapping[str, int] | None = None) -> None:
        self.told: dict[str, int] = dict(told or {})
        self._shared = shared

    def num_tokens(self, request_id: str) -> int:
        if request_id not in self.told:
            self.told[request_id] = self._shared.num_tokens(request_id)
        return self.told[request_id]


class Recorded:
    """A policy whose every call is written down; other attributes are the policy's own.

    A plan that raises is recorded without a plan.

    Args:
        policy: Decides.
        write: Takes each call, after the policy had it (before, if the policy raises).
    """

    def __init__(self, policy: Policy, write: Callable[[Call], None]) -> None:
        self.name = policy.name
        self._policy = policy
        self._write = write
        write({"call": "fresh"})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def arrive(self, request: Request, now_s: float) -> None:
        """See `Policy.arrive`."""
        self._write({"call": "arrive", "now_s": now_s, "request": request_to_mapping(request)})
        self._policy.arrive(request, now_s)

    def depart(self, request_id: str, now_s: float, *, finished: bool = True) -> None:
        """See `Policy.depart`."""
        self._write({"call": "depart", "now_s": now_s, "request_id": request_id, "finished": finished})
        self._policy.depart(request_id, now_s, finished=finished)

    def cached(self, request_id: str, num_tokens: int, now_s: float) -> None:
        """See `Policy.cached`."""
        self._write({"call": "cached", "now_s": now_s, "request_id": request_id, "num_tokens": num_tokens})
        self._policy.cached(request_id, num_tokens, now_s)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        """See `Policy.plan`."""
        plan: Plan | None = None
        blocked, shared = _Met(limits.blocked), _Heard(limits.shared)
        numbers = (limits.token_budget, limits.free_seqs, limits.free_kv_tokens, limits.tokens_per_decode)
        try:
            plan = self._policy.plan(now_s, Limits(*numbers, blocked, shared))
            return plan
        finally:
            made = None if plan is None else plan_to_mapping(plan)
            seen: list[Any] = [*numbers]
            if blocked.met or shared.told:
                seen += [sorted(blocked.met), shared.told]
            self._write({"call": "plan", "now_s": now_s, "limits": seen, "plan": made})

    def begin(self, launch: Launch) -> None:
        """See `Policy.begin`."""
        self._write({"call": "begin", **launch_to_mapping(launch)})
        self._policy.begin(launch)

    def observe(self, outcome: StepOutcome) -> None:
        """See `Policy.observe`; the launch is not repeated: outcomes come in the order of launches."""
        call: Call = {
            "call": "observe",
            "started_at": outcome.started_at,
            "ended_at": outcome.ended_at,
            "completed": list(outcome.completed),
            "extra_tokens": dict(outcome.extra_tokens),
            "is_clean": outcome.is_clean,
        }
        if outcome.lessons is not None:
            call["lessons"] = [[list(shape), lesson_s] for shape, lesson_s in outcome.lessons]
        self._write(call)
        self._policy.observe(outcome)


def tell(policy: Policy, call: Mapping[str, Any], launch: Launch | None = None) -> Plan | None:
    """Make a recorded call to a policy; return the plan if it was one for a plan.

    Args:
        policy: Who is told.
        call: As written by `Recorded`, but not `fresh`.
        launch: For `observe`, the launch that ended.

    Raises:
        KeyError, TypeError, ValueError: the call is not as `Recorded` writes it.
        Exception: what the policy raises.
    """
    match call["call"]:
        case "arrive":
            policy.arrive(request_from_mapping(call["request"]), call["now_s"])
        case "depart":
            policy.depart(call["request_id"], call["now_s"], finished=call["finished"])
        case "cached":
            policy.cached(call["request_id"], call["num_tokens"], call["now_s"])
        case "plan":
            return policy.plan(call["now_s"], _limits(call["limits"]))
        case "begin":
            policy.begin(launch_from_mapping(call))
        case "observe":
            if launch is None:
                raise ValueError("observe: no step is in flight")
            policy.observe(outcome_from_mapping(call, launch))
        case other:
            raise ValueError(f"call: {other!r} is unknown")
    return None


def _limits(seen: Sequence[Any]) -> Limits:
    budget, free_seqs, free_kv_tokens, tokens_per_decode, *further = seen
    blocked, told = further or (NOBODY, {})
    shared = _Heard(NOTHING_SHARED, told)
    return Limits(budget, free_seqs, free_kv_tokens, tokens_per_decode, blocked, shared)


def request_to_mapping(request: Request) -> dict[str, Any]:
    """Return all fields of a request; the importance by name."""
    slo = request.slo
    return {
        "request_id": request.request_id,
        "arrived_at": request.arrived_at,
        "slo": [slo.ttft_s, slo.tbt_s, slo.ttlt_s],
        "num_prompt_tokens": request.num_prompt_tokens,
        "max_tokens": request.max_tokens,
        "qos_class": request.qos_class,
        "tenant": request.tenant,
        "importance": request.importance.name.lower(),
        "priority": request.priority,
        "num_cached_tokens": request.num_cached_tokens,
        "expected_output_tokens": request.expected_output_tokens,
        "tenant_weight": request.tenant_weight,
    }


def request_from_mapping(mapping: Mapping[str, Any]) -> Request:
    """Return the request that `request_to_mapping` was given."""
    fields = dict(mapping)
    fields["slo"] = Slo(*fields["slo"])
    fields["importance"] = Importance[fields["importance"].upper()]
    return Request(**fields)


def plan_to_mapping(plan: Plan) -> dict[str, Any]:
    """Return all of a plan; an infinite slack is None."""
    return {
        "budget": plan.budget,
        "chunks": [list(chunk) for chunk in plan.chunks],
        "spares": list(plan.spares),
        "held": list(plan.held),
        "stalled": list(plan.stalled),
        "relegated": list(plan.relegated),
        "restored": list(plan.restored),
        "shape": list(plan.shape),
        "predicted_s": plan.predicted_s,
        "slack_s": plan.slack_s if math.isfinite(plan.slack_s) else None,
        "is_late": plan.is_late,
    }


def launch_to_mapping(launch: Launch) -> dict[str, Any]:
    """Return all of a launch."""
    return {
        "at": launch.at,
        "prefills": [list(done) for done in launch.prefills],
        "shape": list(launch.shape),
        "stalled": list(launch.stalled),
        "preempted": list(launch.preempted),
    }


def launch_from_mapping(mapping: Mapping[str, Any]) -> Launch:
    """Return the launch that `launch_to_mapping` was given."""
    return Launch(
        mapping["at"],
        [Prefill(*done) for done in mapping["prefills"]],
        BatchShape(*mapping["shape"]),
        mapping["stalled"],
        mapping["preempted"],
    )


def outcome_from_mapping(mapping: Mapping[str, Any], launch: Launch) -> StepOutcome:
    """Return the outcome of a launch as `Recorded` wrote it."""
    lessons = mapping.get("lessons")
    if lessons is not None:
        lessons = [(BatchShape(*shape), lesson_s) for shape, lesson_s in lessons]
    return StepOutcome(
        launch,
        mapping["started_at"],
        mapping["ended_at"],
        mapping["completed"],
        mapping["extra_tokens"],
        mapping["is_clean"],
        lessons,
    )
