"""A policy that is held to the laws as it serves: for debug runs on any host."""

from __future__ import annotations

from typing import Any, cast

from niyama.scheduling.base import BasePolicy
from niyama.scheduling.laws import check_plan, check_state
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import Launch, Plan, Request, StepOutcome


def lawful(policy: BasePolicy) -> BasePolicy:
    """Return what serves like the policy, and raises `LawBroken` if that breaks a law.

    Every plan is checked when it is made, the books after every call (L1, L2, L3, L5, L7, L9).
    Costs O(requests) per call.
    """
    return cast(BasePolicy, _Lawful(policy))


def unwrapped(policy: BasePolicy) -> BasePolicy:
    """Return the policy itself, whether or not it is held to the laws."""
    return policy._policy if isinstance(policy, _Lawful) else policy


class _Lawful:
    """Stands before a policy; whatever it does not check is the policy's own."""

    def __init__(self, policy: BasePolicy) -> None:
        self._policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def arrive(self, request: Request, now_s: float) -> None:
        self._policy.arrive(request, now_s)
        check_state(self._policy)

    def depart(self, request_id: str, now_s: float, *, finished: bool = True) -> None:
        self._policy.depart(request_id, now_s, finished=finished)
        check_state(self._policy)

    def cached(self, request_id: str, num_tokens: int, now_s: float) -> None:
        self._policy.cached(request_id, num_tokens, now_s)
        check_state(self._policy)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        made = self._policy.plan(now_s, limits)
        check_plan(self._policy, now_s, limits, made)
        check_state(self._policy)
        return made

    def begin(self, launch: Launch) -> None:
        self._policy.begin(launch)
        check_state(self._policy)

    def observe(self, outcome: StepOutcome) -> None:
        self._policy.observe(outcome)
        check_state(self._policy)
