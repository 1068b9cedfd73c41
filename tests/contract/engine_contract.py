"""What every host of a policy must do, as scenarios that any host can be put through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import pytest

from niyama.scheduling.base import BasePolicy
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.policy import Chunk, LatencyModel, Launch, Limits, Plan

MAX_STEPS = 2_000
"""A scenario that takes more steps hangs."""


TOKEN_BUDGET = 256
"""Tokens of a step in the scenarios."""


class Scripted(BasePolicy):
    """Serves prefills in the order of a list of names, one after the other; others follow as they came.

    Attributes:
        order: Names, the most urgent first; a test may change it between steps.
        held: Names of prefills that get nothing.
        plans: Every plan it made.
        launches: Every launch it was told of.
    """

    name = "scripted"

    def __init__(self, model: LatencyModel, name_of: Callable[[str], str] = str) -> None:
        super().__init__(model)
        self.order: list[str] = []
        self.held: set[str] = set()
        self.plans: list[Plan] = []
        self.launches: list[Launch] = []
        self._name_of = name_of

    def in_order(self) -> Iterator[Job]:
        rank = {name: place for place, name in enumerate(self.order)}
        jobs = [job for job in self.ledger.jobs.values() if job.phase is not Phase.DECODING]
        jobs.sort(key=lambda job: rank.get(self._name_of(job.request_id), len(rank)))
        return iter(jobs)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        shape = self.ledger.decode_shape(limits.tokens_per_decode)
        left = min(TOKEN_BUDGET, limits.token_budget) - shape.num_decode_tokens
        chunks: list[Chunk] = []
        for job in self.in_order():
            if left > 0 and self._name_of(job.request_id) not in self.held:
                num_tokens = min(left, job.remaining)
                chunks.append(Chunk(job.request_id, num_tokens))
                shape = shape.with_chunk(num_tokens, job.computed)
                left -= num_tokens
        running = {chunk.request_id for chunk in chunks}
        plan = Plan(
            budget=shape.num_prefill_tokens + shape.num_decode_tokens,
            chunks=chunks,
            shape=shape,
            predicted_s=self.model.predict_s(shape),
            held=[i for i in self.ledger.started if i not in running],
        )
        self.plans.append(plan)
        return plan

    def begin(self, launch: Launch) -> None:
        super().begin(launch)
        self.launches.append(launch)

    def _enqueue(self, job: Job, now_s: float) -> None:
        pass

    def _dequeue(self, job: Job) -> None:
        pass

    def _has_backlog(self) -> bool:
        return False


class EngineHost(Protocol):
    """A host with its engine and a `Scripted` policy, as the scenarios use it."""

    policy: Scripted

    def submit(self, name: str, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """Let a request arrive; it ends after so many output tokens."""
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


HostMaker = Callable[[int | None], EngineHost]
"""Makes a host with KV for so many tokens; None for more than any scenario needs."""


class EngineContract:
    """The scenarios; a subclass gives the fixture `make_host`."""

    def test_all_requests_finish_in_full(self, make_host: HostMaker) -> None:
        host = make_host(None)
        wanted = {f"r{number}": 1 + 5 * number for number in range(8)}
        for name, num_tokens in wanted.items():
            host.submit(name, 90, num_tokens)
        run(host)
        assert {name: host.num_output_tokens(name) for name in wanted} == wanted
        assert_empty(host)

    def test_first_tokens_come_in_the_planned_order(self, make_host: HostMaker) -> None:
        host = make_host(None)
        host.policy.order = ["d", "b", "a", "c"]
        for name in "abcd":
            host.submit(name, 400, 3)
        run(host)
        assert list(host.first_tokens()) == ["d", "b", "a", "c"]

    def test_plans_are_realised_as_they_are(self, make_host: HostMaker) -> None:
        host = make_host(None)
        for number in range(6):
            host.submit(f"r{number}", 50 + 100 * number, 20)
        run(host)
        chunks = [[tuple(c) for c in plan.chunks] for plan in host.policy.plans]
        launched = [
            [(p.request_id, p.num_tokens) for p in launch.prefills] for launch in host.policy.launches
        ]
        assert [c for c in chunks if c] == [c for c in launched if c]
        assert not any(launch.stalled or launch.preempted for launch in host.policy.launches)
        shapes = [launch.shape for launch in host.policy.launches]
        assert max(s.num_prefill_tokens + s.num_decode_tokens for s in shapes) == TOKEN_BUDGET

    def test_held_prefill_keeps_its_kv_and_resumes(self, make_host: HostMaker) -> None:
        host = make_host(None)
        host.submit("long", 600, 4)
        host.step()
        assert host.num_computed_tokens("long") == TOKEN_BUDGET
        host.policy.held = {"long"}
        host.submit("short", 40, 12)
        run(host, until=lambda: host.num_output_tokens("short") == 12)
        assert host.num_computed_tokens("long") == TOKEN_BUDGET
        assert host.num_output_tokens("long") == 0
        host.policy.held = set()
        run(host)
        assert host.num_output_tokens("long") == 4
        computed = sum(p.num_tokens for launch in host.policy.launches for p in launch.prefills)
        assert computed == 640
        assert_empty(host)

    def test_urgent_request_overtakes_a_started_prefill(self, make_host: HostMaker) -> None:
        host = make_host(None)
        host.submit("early", 1200, 2)
        host.step()
        host.policy.order = ["urgent", "early"]
        host.submit("urgent", 300, 2)
        run(host)
        assert list(host.first_tokens()) == ["urgent", "early"]

    @pytest.mark.parametrize("num_steps", [0, 1, 6], ids=["waiting", "prefilling", "decoding"])
    def test_aborted_request_frees_everything(self, make_host: HostMaker, num_steps: int) -> None:
        host = make_host(None)
        host.policy.order = ["gone"]
        host.submit("gone", 500, 100)
        host.submit("stays", 60, 10)
        for _ in range(num_steps):
            host.step()
        assert (host.num_output_tokens("gone") > 0) == (num_steps == 6)
        host.abort("gone")
        run(host)
        assert host.num_output_tokens("stays") == 10
        assert host.num_output_tokens("gone") < 100
        assert_empty(host)

    def test_memory_pressure_preempts_and_loses_nobody(self, make_host: HostMaker) -> None:
        host = make_host(640)
        names = [f"r{number}" for number in range(8)]
        for name in names:
            host.submit(name, 60, 90)
        run(host)
        assert {host.num_output_tokens(name) for name in names} == {90}
        assert sum(len(launch.preempted) for launch in host.policy.launches) > 0
        assert_empty(host)

    def test_idle_engine_serves_again(self, make_host: HostMaker) -> None:
        host = make_host(None)
        assert not host.is_busy()
        for name in ("first", "second"):
            host.submit(name, 30, 5)
            run(host)
            assert host.num_output_tokens(name) == 5
            assert_empty(host)


def run(host: EngineHost, until: Callable[[], bool] = lambda: False) -> None:
    """Step until the engine is idle, or the condition holds."""
    for _ in range(MAX_STEPS):
        if until() or not host.is_busy():
            return
        host.step()
    raise AssertionError(f"still busy after {MAX_STEPS} steps")


def assert_empty(host: EngineHost) -> None:
    """Assert that nobody is left, nowhere (L1, L4)."""
    assert host.live_requests() == 0
    assert host.kv_usage() == 0
    assert not host.policy.ledger.jobs
    assert not host.policy.ledger.started
    host.policy.ledger.check()
