"""A policy that is held to the laws as it serves: for debug runs on any host."""

from __future__ import annotations

from niyama.scheduling.base import BasePolicy
from niyama.scheduling.laws import check_plan, check_state
from niyama.scheduling.policy import Launch, Limits, Plan, Request, StepOutcome


def lawful(policy: BasePolicy) -> BasePolicy:
    """Return the same policy, whose methods from now on raise `LawBroken` if it breaks a law.

    Every plan is checked when it is made, the books after every call (L1, L2, L3, L5, L7, L9).
    Costs O(requests) per call.
    """
    arrive, depart, plan = policy.arrive, policy.depart, policy.plan
    begin, observe = policy.begin, policy.observe

    def checked_arrive(request: Request, now_s: float) -> None:
        arrive(request, now_s)
        check_state(policy)

    def checked_depart(request_id: str, now_s: float, *, finished: bool = True) -> None:
        depart(request_id, now_s, finished=finished)
        check_state(policy)

    def checked_plan(now_s: float, limits: Limits) -> Plan:
        made = plan(now_s, limits)
        check_plan(policy, now_s, limits, made)
        check_state(policy)
        return made

    def checked_begin(launch: Launch) -> None:
        begin(launch)
        check_state(policy)

    def checked_observe(outcome: StepOutcome) -> None:
        observe(outcome)
        check_state(policy)

    policy.arrive = checked_arrive  # type: ignore[method-assign]
    policy.depart = checked_depart  # type: ignore[method-assign]
    policy.plan = checked_plan  # type: ignore[method-assign]
    policy.begin = checked_begin  # type: ignore[method-assign]
    policy.observe = checked_observe  # type: ignore[method-assign]
    return policy
