"""The policies by name. Adding one is a new file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from niyama.scheduling.base import BasePolicy
from niyama.scheduling.baselines import (
    EdfPolicy,
    FcfsPolicy,
    FixedChunkPolicy,
    PriorityPolicy,
    SjfPolicy,
    SrpfPolicy,
)
from niyama.scheduling.deadlines import Anchor
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.paper import PaperPolicy
from niyama.scheduling.policy import LatencyModel

PolicyFactory = Callable[[LatencyModel, Anchor, int | None], BasePolicy]

POLICIES: dict[str, PolicyFactory] = {
    "niyama": lambda model, anchor, chunk: NiyamaPolicy(model, anchor),
    "paper": lambda model, anchor, chunk: PaperPolicy(model, anchor),
    "fcfs": FcfsPolicy,
    "priority": PriorityPolicy,
    "edf": EdfPolicy,
    "srpf": SrpfPolicy,
    "sjf": SjfPolicy,
}


def has_fixed_chunk(policy: str) -> bool:
    """Whether a policy's steps are as large as it is told; False for an unknown name."""
    factory = POLICIES.get(policy)
    return isinstance(factory, type) and issubclass(factory, FixedChunkPolicy)


def make_policy(
    name: str, model: LatencyModel, anchor: Anchor = "strict", chunk: int | None = None
) -> BasePolicy:
    """Return a fresh policy.

    Args:
        name: One of POLICIES.
        model: The step-time model it plans with and teaches.
        anchor: What token deadlines count from.
        chunk: Tokens per step of the policies with a fixed chunk; None for their default.

    Raises:
        ValueError: `name` is unknown; the message lists the known ones.
    """
    factory = POLICIES.get(name)
    if factory is None:
        raise ValueError(f"policy: {name!r} is unknown; allowed: {', '.join(sorted(POLICIES))}")
    return factory(model, anchor, chunk)
