"""What every host of a policy must do, as scenarios that any host can be put through.

A scenario asserts what was decided and what came of it, never how long it took: one host runs in
virtual time, the other one on a real clock. So promises are either far away or out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import pytest

from niyama.scheduling.base import BasePolicy
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import Chunk, LatencyModel, Launch, Limits, Plan

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


class _Script(BasePolicy):
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

    def _enqueue(self, job: Job, now_s: float) -> None:
        pass

    def _dequeue(self, job: Job) -> None:
        pass

    def _has_backlog(self) -> bool:
        return False


class Scripted(Observed, _Script):
    """A policy that does what the scenario says."""


class Niyama(Observed, NiyamaPolicy):
    """The policy itself."""


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


class EngineContract:
    """The scenarios; a subclass gives the fixture `make_host`."""

    def test_all_requests_finish_in_full(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        wanted = {f"r{number}": 1 + 5 * number for number in range(8)}
        for name, num_tokens in wanted.items():
            host.submit(name, 90, num_tokens)
        run(host)
        assert {name: host.num_output_tokens(name) for name in wanted} == wanted
        assert_empty(host)

    def test_first_tokens_come_in_the_planned_order(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        host.policy.order = ["d", "b", "a", "c"]
        for name in "abcd":
            host.submit(name, 400, 3)
        run(host)
        assert list(host.first_tokens()) == ["d", "b", "a", "c"]

    def test_plans_are_realised_as_they_are(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
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
        host = make_host(Scripted)
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
        host = make_host(Scripted)
        host.submit("early", 1200, 2)
        host.step()
        host.policy.order = ["urgent", "early"]
        host.submit("urgent", 300, 2)
        run(host)
        assert list(host.first_tokens()) == ["urgent", "early"]

    def test_no_more_run_than_there_are_seats(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        names = [f"r{number}" for number in range(MAX_SEQS + 8)]
        for name in names:
            host.submit(name, 8, 20)
        run(host)
        shapes = [launch.shape for launch in host.policy.launches]
        assert max(shape.num_decode_tokens for shape in shapes) == MAX_SEQS
        assert {host.num_output_tokens(name) for name in names} == {20}
        assert_empty(host)

    def test_same_prompt_again_is_computed_but_for_its_cached_blocks(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        host.submit("first", 300, 4)
        run(host)
        host.submit("second", 300, 4, again="first")
        run(host)
        # Whole blocks, and at least one token: 288 are cached, with blocks of 16 as of 32.
        assert host.policy.num_prefilled("first") == 300
        assert host.policy.num_prefilled("second") == 12
        planned = [chunk.num_tokens for plan in host.policy.plans for chunk in plan.chunks]
        assert planned == [256, 44, 12]
        assert host.num_output_tokens("second") == 4
        assert_empty(host)

    # Aborts --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("num_steps", [0, 1, 6], ids=["waiting", "prefilling", "decoding"])
    def test_aborted_request_frees_everything(self, make_host: HostMaker, num_steps: int) -> None:
        host = make_host(Scripted)
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

    def test_aborted_held_prefill_frees_everything(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        host.submit("gone", 600, 4)
        host.step()
        host.policy.held = {"gone"}
        host.submit("stays", 40, 12)
        host.step()
        host.step()
        assert host.policy.names(host.policy.plans[-1].held) == ["gone"]
        assert host.num_computed_tokens("gone") == TOKEN_BUDGET
        host.abort("gone")
        run(host)
        assert host.num_output_tokens("gone") == 0
        assert host.num_output_tokens("stays") == 12
        assert_empty(host)

    def test_aborted_preempted_request_frees_everything(self, make_host: HostMaker) -> None:
        host = make_host(Scripted, 640)
        names = [f"r{number}" for number in range(8)]
        for name in names:
            host.submit(name, 60, 90)
        run(host, until=lambda: bool(host.policy.preempted))
        gone = host.policy.preempted[-1]
        assert 0 < host.num_output_tokens(gone) < 90
        host.abort(gone)
        run(host)
        assert {host.num_output_tokens(name) for name in names if name != gone} == {90}
        assert host.num_output_tokens(gone) < 90
        assert_empty(host)

    def test_aborted_relegated_request_frees_everything(self, make_host: HostMaker) -> None:
        host = make_host(Niyama)
        host.submit("stays", 900, 5)
        host.submit("gone", 900, 5, "lost")
        host.step()
        assert host.policy.names(host.policy.plans[0].relegated) == ["gone"]
        host.abort("gone")
        run(host)
        assert host.num_output_tokens("stays") == 5
        assert host.num_output_tokens("gone") == 0
        assert_empty(host)

    def test_everybody_aborted_leaves_an_engine_that_serves(self, make_host: HostMaker) -> None:
        host = make_host(Niyama)
        for number in range(12):
            host.submit(f"r{number}", 200, 50, ("patient", "tight", "lost")[number % 3])
        for _ in range(5):
            host.step()
        for number in range(12):
            host.abort(f"r{number}")
        run(host)
        assert_empty(host)
        host.submit("after", 30, 5)
        run(host)
        assert host.num_output_tokens("after") == 5
        assert_empty(host)

    # Memory --------------------------------------------------------------------------------------

    def test_memory_pressure_preempts_and_loses_nobody(self, make_host: HostMaker) -> None:
        host = make_host(Scripted, 640)
        names = [f"r{number}" for number in range(8)]
        for name in names:
            host.submit(name, 60, 90)
        run(host)
        assert {host.num_output_tokens(name) for name in names} == {90}
        assert host.policy.preempted
        assert_empty(host)

    def test_memory_is_taken_from_the_less_important(self, make_host: HostMaker) -> None:
        host = make_host(Scripted, 640)
        names = {f"{kind}{n}": kind for kind, count in (("minor", 6), ("major", 2)) for n in range(count)}
        host.policy.order = ["major0", "major1"]
        for name, kind in names.items():
            host.submit(name, 60, 90, kind)
        run(host)
        assert host.policy.preempted
        assert not {name for name in host.policy.preempted if names[name] == "major"}
        assert {host.num_output_tokens(name) for name in names} == {90}
        assert_empty(host)

    def test_prefills_too_large_to_run_together_all_finish(self, make_host: HostMaker) -> None:
        host = make_host(Niyama, 1024)
        for number in range(4):
            host.submit(f"r{number}", 700, 12)
        run(host)
        assert {host.num_output_tokens(f"r{number}") for number in range(4)} == {12}
        assert_empty(host)

    # The policy itself ---------------------------------------------------------------------------

    def test_hopeless_requests_wait_for_the_others_and_are_served(self, make_host: HostMaker) -> None:
        host = make_host(Niyama)
        submitted = [("lost-minor", 400), ("lost-major", 400), ("patient", 400)]
        for kind, num_tokens in submitted:
            host.submit(kind, num_tokens, 3, kind)
        run(host)
        relegated = {name for plan in host.policy.plans for name in host.policy.names(plan.relegated)}
        assert relegated == {"lost-minor", "lost-major"}
        assert list(host.first_tokens()) == ["patient", "lost-major", "lost-minor"]
        assert [host.num_output_tokens(kind) for kind, _ in submitted] == [3, 3, 3]
        assert_empty(host)

    def test_earlier_deadline_overtakes_a_started_prefill_that_keeps_its_kv(
        self, make_host: HostMaker
    ) -> None:
        host = make_host(Niyama)
        host.submit("early", 1500, 3)
        host.step()
        assert host.num_computed_tokens("early") == ENGINE_BUDGET
        host.submit("urgent", 700, 3, "sooner")
        host.step()
        assert host.num_computed_tokens("early") == ENGINE_BUDGET
        assert host.policy.names(host.policy.plans[-1].held) == ["early"]
        run(host)
        assert list(host.first_tokens()) == ["urgent", "early"]
        assert [host.policy.num_prefilled(name) for name in ("early", "urgent")] == [1500, 700]
        assert not host.policy.preempted
        assert_empty(host)

    def test_chunk_is_what_the_slack_of_the_decodes_allows(self, make_host: HostMaker) -> None:
        largest: dict[str, int] = {}
        for talker in ("patient", "tight"):
            host = make_host(Niyama)
            host.submit("talker", 20, 6, talker)
            host.step()
            host.submit("reader", 1500, 2)
            run(host)
            beside = [s for s in (launch.shape for launch in host.policy.launches) if s.num_decode_tokens]
            largest[talker] = max(shape.num_prefill_tokens for shape in beside)
            assert [host.num_output_tokens(name) for name in ("talker", "reader")] == [6, 2]
            assert_empty(host)
        # A pace that the engine cannot keep is stretched, so some prefill runs beside the tight one.
        assert largest["patient"] == ENGINE_BUDGET - 1
        assert largest["tight"] < ENGINE_BUDGET // 2

    def test_mixed_requests_all_finish_in_full_under_memory_pressure(self, make_host: HostMaker) -> None:
        host = make_host(Niyama, 1024)
        kinds = list(BOOK["classes"])
        wanted = {f"r{number}": 10 + 7 * number for number in range(16)}
        for number, (name, num_tokens) in enumerate(wanted.items()):
            host.submit(name, 20 + 40 * (number % 5), num_tokens, kinds[number % len(kinds)])
            host.step()
        run(host)
        assert {name: host.num_output_tokens(name) for name in wanted} == wanted
        assert host.policy.preempted
        assert_empty(host)

    def test_idle_engine_serves_again(self, make_host: HostMaker) -> None:
        host = make_host(Scripted)
        assert not host.is_busy()
        for name in ("first", "second"):
            host.submit(name, 30, 5)
            run(host)
            assert host.num_output_tokens(name) == 5
            assert_empty(host)


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
