"""What the contract needs of a host, and the policies by which it is driven."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from tests.orderless import Orderless

from niyama.qos import Importance
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.load import SHORTEST_S
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Chunk, LatencyModel, Launch, Plan

MAX_STEPS = 2_000
"""A scenario that takes more steps hangs."""

TOKEN_BUDGET = 256
"""Tokens of a step of `Scripted`."""

ENGINE_BUDGET = 512
"""Most tokens of a step of every engine here."""

MAX_SEQS = 32
"""Most requests that run at once in every engine here."""

BOOK: dict[str, Any] = {
    "default": "patient",
    "classes": {
        "patient": {"ttft": "1h", "tbt": "1h"},
        "sooner": {"ttft": "30min", "tbt": "1h"},
        "tight": {"ttft": "1h", "tbt": "0.1ms"},
        "reader": {"ttft": "30min", "tbt": "900ms"},
        "lost": {"ttft": "0.1ms"},
        "lost-major": {"ttft": "0.1ms", "importance": "high"},
        "lost-minor": {"ttft": "0.1ms", "importance": "low"},
        "major": {"ttlt": "1h", "importance": "high"},
        "minor": {"ttlt": "1h", "importance": "low"},
    },
}
"""The classes of the scenarios, as a QoS file has them: no engine here emits a token in 0.1 ms."""


class Observed(BasePolicy):
    """Keeps what a policy decided, and what it was told.

    Attributes:
        plans: Every plan it made.
        launches: Every launch it was told of.
        name_of: Turns an id of the engine into the name that the scenario gave.
    """

    def __init__(self, model: LatencyModel, name_of: Callable[[str], str] = str) -> None:
        super().__init__(model)
        self.plans: list[Plan] = []
        self.launches: list[Launch] = []
        self.name_of = name_of

    def plan(self, now_s: float, limits: Limits) -> Plan:
        plan = super().plan(now_s, limits)
        self.plans.append(plan)
        return plan

    def begin(self, launch: Launch) -> None:
        super().begin(launch)
        self.launches.append(launch)

    def names(self, ids: Iterable[str]) -> list[str]:
        return [self.name_of(request_id) for request_id in ids]

    @property
    def preempted(self) -> list[str]:
        """Names of those whose KV was taken, in that order."""
        return self.names(i for launch in self.launches for i in launch.preempted)

    def num_prefilled(self, name: str) -> int:
        """Return how many prompt tokens were computed for a request."""
        done = [p for launch in self.launches for p in launch.prefills]
        return sum(p.num_tokens for p in done if self.name_of(p.request_id) == name)


class _Script(Orderless):
    """Serves prefills in the order of a list of names, one after the other; others follow as they came.

    Attributes:
        order: Names, the most urgent first; a test may change it between steps.
        held: Names of prefills that get nothing.
    """

    name = "scripted"
    name_of: Callable[[str], str]

    def __init__(self, model: LatencyModel) -> None:
        super().__init__(model)
        self.order: list[str] = []
        self.held: set[str] = set()

    def in_order(self) -> Iterator[Job]:
        rank = {name: place for place, name in enumerate(self.order)}
        jobs = [job for job in self.ledger.jobs.values() if job.phase is not Phase.DECODING]
        jobs.sort(key=lambda job: rank.get(self.name_of(job.request_id), len(rank)))
        return iter(jobs)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        shape = self.ledger.decode_shape(limits.tokens_per_decode)
        left = min(TOKEN_BUDGET, limits.token_budget) - shape.num_decode_tokens
        seats = limits.free_seqs
        chunks: list[Chunk] = []
        for job in self.in_order():
            has_seat = job.phase is Phase.PREFILLING or seats > 0
            if left > 0 and has_seat and self.name_of(job.request_id) not in self.held:
                num_tokens = min(left, job.remaining)
                chunks.append(Chunk(job.request_id, num_tokens))
                shape = shape.with_chunk(num_tokens, job.computed)
                left -= num_tokens
                seats -= job.phase is Phase.WAITING
        running = {chunk.request_id for chunk in chunks}
        predicted_s, slack_s = self.model.predict_s(shape), self.slack_s(now_s)
        return Plan(
            budget=shape.num_prefill_tokens + shape.num_decode_tokens,
            chunks=chunks,
            shape=shape,
            predicted_s=predicted_s,
            held=[i for i in self.ledger.started if i not in running],
            slack_s=slack_s,
            is_late=predicted_s > slack_s,
        )


class Scripted(Observed, _Script):
    """A policy that does what the scenario says."""


class Niyama(Observed, NiyamaPolicy):
    """The policy itself."""


class Hurried(Niyama):
    """The policy with steps as long as they may be, as if the engine were busy, but for the gate."""

    def _calm_s(self, now_s: float, decodes: BatchShape) -> float:
        return math.inf


class Busy(Niyama):
    """The policy on an engine of which almost everything was asked lately."""

    def plan(self, now_s: float, limits: Limits) -> Plan:
        if not self.plans:
            work_s = 0.9 * SHORTEST_S
            self.load.offer(work_s, work_s, int(Importance.NORMAL), now_s)
        return super().plan(now_s, limits)


P = TypeVar("P", bound=Observed)
P_co = TypeVar("P_co", bound=Observed, covariant=True)


class EngineHost(Protocol[P_co]):
    """A host with its engine and a policy, as the scenarios use it."""

    @property
    def policy(self) -> P_co:
        """The policy, which keeps what it decided."""
        ...

    def submit(
        self,
        name: str,
        num_prompt_tokens: int,
        num_output_tokens: int,
        qos_class: str = "patient",
        *,
        again: str | None = None,
    ) -> None:
        """Let a request arrive; it ends after so many output tokens.

        `again` names a request that is done and had the very same prompt.
        """
        ...

    def abort(self, name: str) -> None:
        """Let the client give up a request."""
        ...

    def step(self) -> None:
        """Run one engine step."""
        ...

    def is_busy(self) -> bool:
        """Return whether anything is left to do."""
        ...

    def num_output_tokens(self, name: str) -> int:
        """Return how many tokens have come out of a request so far."""
        ...

    def first_tokens(self) -> Sequence[str]:
        """Return the names of requests in the order of their first tokens."""
        ...

    def num_computed_tokens(self, name: str) -> int:
        """Return how many tokens of a live request are in the KV cache."""
        ...

    def kv_usage(self) -> float:
        """Return the share of the KV cache in use, 0 to 1."""
        ...

    def live_requests(self) -> int:
        """Return how many requests the host knows of."""
        ...


class HostMaker(Protocol):
    """Makes a fresh host."""

    def __call__(self, policy: type[P], num_kv_tokens: int | None = None) -> EngineHost[P]:
        """Return a host of the policy with KV for so many tokens; None for more than is ever needed."""
        ...


def run(host: EngineHost[Observed], until: Callable[[], bool] = lambda: False) -> None:
    """Step until the engine is idle, or the condition holds."""
    for _ in range(MAX_STEPS):
        if until() or not host.is_busy():
            return
        host.step()
    raise AssertionError(f"still busy after {MAX_STEPS} steps")


def assert_empty(host: EngineHost[Observed]) -> None:
    """Assert that nobody is left, nowhere (L1, L4)."""
    assert host.live_requests() == 0
    assert host.kv_usage() == 0
    assert not host.policy.ledger.jobs
    assert not host.policy.ledger.started
    host.policy.ledger.check()
