"""A workload from the first arrival to the last token, on one replica or a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from niyama.latency import get_profile
from niyama.scheduling.deadlines import Anchor
from niyama.scheduling.policy import LatencyModel
from niyama.scheduling.registry import PolicyFactory, make_policy
from niyama.sim.checked import CheckedPolicy, CheckedReplica
from niyama.sim.fleet import ROUND_ROBIN, Fleet, Router
from niyama.sim.live import ReplicaLimits
from niyama.sim.replica import Replica
from niyama.sim.verdicts import Criterion, Served
from niyama.workload.generate import Arrival

PROGRESS_EVERY = 256
"""Arrivals between two reports."""

Progress = Callable[[int, float], None]
"""Hears of the number of requests that arrived, and of the virtual instant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What serves: replicas of one kind under one policy.

    Attributes:
        policy: Name in the registry.
        profile: Name of the step-time profile; the policy plans with it and the clock runs by it.
        margin: Share of the predicted time that the policy adds for safety.
        chunk: Tokens per step of policies with a fixed chunk; None for their default.
        factory: Makes the policy in place of the registry, which `policy` then only names.
        criterion: What the policy is to aim for: the anchor of its token deadlines follows.
        limits: What each replica can hold.
        num_replicas: How many.
        router: Which replica a request goes to.
        is_checked: Check every law at every step; slow.
    """

    policy: str
    profile: str = "a100-80gb/llama-3-8b/tp1"
    margin: float = 0.2
    chunk: int | None = None
    factory: PolicyFactory | None = None
    criterion: Criterion = "strict"
    limits: ReplicaLimits = field(default_factory=ReplicaLimits)
    num_replicas: int = 1
    router: Router = ROUND_ROBIN
    is_checked: bool = False

    def replica(self, on_served: Callable[[Served], None]) -> Replica:
        """Return a fresh replica. Raises ValueError for an unknown policy or profile."""
        model: LatencyModel = get_profile(self.profile, margin=self.margin)
        anchor: Anchor = "strict" if self.criterion == "strict" else "paper"
        if self.factory is None:
            policy = make_policy(self.policy, model, anchor, self.chunk)
        else:
            policy = self.factory(model, anchor, self.chunk)
        if self.is_checked:
            return CheckedReplica(CheckedPolicy(policy), model, self.limits, on_served)
        return Replica(policy, model, self.limits, on_served)


@dataclass(slots=True)
class Run:
    """What happened.

    Attributes:
        served: Every finished request, in order of their ends on each replica.
        is_complete: Whether all that arrived finished; False if the run was given up.
    """

    replicas: list[Replica]
    served: list[Served]
    is_complete: bool

    @property
    def num_steps(self) -> int:
        """Steps of all replicas."""
        return sum(len(replica.ended_at) for replica in self.replicas)

    @property
    def simulated_s(self) -> float:
        """Virtual time until the last token."""
        return max((replica.now_s for replica in self.replicas), default=0.0)


def simulate(
    setup: Setup,
    arrivals: Iterable[Arrival],
    *,
    progress: Progress | None = None,
    give_up: Callable[[Served], bool] | None = None,
) -> Run:
    """Serve all arrivals, which come in order of time, to their last token.

    Args:
        setup: What serves.
        arrivals: The workload.
        progress: Called now and then.
        give_up: Hears of every finished request; once it returns True the run ends early.
    """
    served: list[Served] = []
    is_over = False

    def on_served(done: Served) -> None:
        nonlocal is_over
        served.append(done)
        if give_up is not None and give_up(done):
            is_over = True

    replicas = [setup.replica(on_served) for _ in range(setup.num_replicas)]
    fleet = Fleet(replicas, setup.router)
    for number, arrival in enumerate(arrivals):
        fleet.arrive(arrival, number)
        if is_over:
            break
        if progress is not None and number % PROGRESS_EVERY == 0:
            progress(number, arrival.request.arrived_at)
    for replica in replicas:
        while replica.live and not is_over:
            replica.step()
    return Run(replicas, served, not is_over)
