from __future__ import annotations

from collections.abc import Sequence

import pytest

from niyama.latency.profiles import LinearCost, LinearProfile
from niyama.qos import Importance, Slo
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import Launch, Plan, Request
from niyama.scheduling.registry import make_policy
from niyama.sim.checked import CheckedPolicy, CheckedReplica
from niyama.sim.live import ReplicaLimits, Role
from niyama.sim.verdicts import Served
from niyama.workload.generate import Arrival

BATCH = Slo(ttlt_s=1e6)
STEP_S, TOKEN_S = 1.0, 0.25
"""A step takes a second, and a quarter more for every prefill token; decodes are free."""


def model() -> LinearProfile:
    cost = LinearCost(STEP_S, 0.0, TOKEN_S, 0.0, 0.0, 0.0)
    return LinearProfile("test", cost, cost, 512, 0.0)


def arrival(
    name: str, prompt: int, output: int, at: float = 0.0, slo: Slo = BATCH, **more: object
) -> Arrival:
    request = Request(name, at, slo, prompt, 10_000, **more)  # type: ignore[arg-type]
    return Arrival(request, output)


class Engine:
    """A checked replica, and what it served, launched and planned."""

    def __init__(
        self,
        policy: str = "fcfs",
        chunk: int = 8,
        blocks: int = 100,
        seqs: int = 8,
        role: Role = "both",
        block_tokens: int = 16,
    ):
        self.served: dict[str, Served] = {}
        self.launches: list[Launch] = []
        self.stalls: dict[int, list[str]] = {}
        limits = ReplicaLimits(
            num_kv_tokens=block_tokens * blocks, max_num_seqs=seqs, role=role, block_tokens=block_tokens
        )
        checked = CheckedPolicy(make_policy(policy, model(), chunk=chunk))
        self.replica = CheckedReplica(checked, model(), limits, self._keep)
        self._plan, self._begin = checked.plan, checked.begin
        checked.plan, checked.begin = self.plan, self.begin  # type: ignore[method-assign]

    def _keep(self, served: Served) -> None:
        self.served[served.request.request_id] = served

    def plan(self, now_s: float, limits: Limits) -> Plan:
        plan = self._plan(now_s, limits)
        plan.stalled = self.stalls.get(len(self.launches), [])
        return plan

    def begin(self, launch: Launch) -> None:
        self.launches.append(launch)
        self._begin(launch)

    def run(self, arrivals: Sequence[Arrival]) -> None:
        for one in arrivals:
            while self.replica.live and self.replica.now_s < one.request.arrived_at:
                self.replica.step()
            self.replica.arrive(one)
        while self.replica.live:
            self.replica.step()

    @property
    def prefills(self) -> list[list[tuple[str, int]]]:
        return [[(done.request_id, done.num_tokens) for done in launch.prefills] for launch in self.launches]


def test_one_request_takes_its_prefill_and_a_step_per_further_token() -> None:
    engine = Engine()
    engine.run([arrival("a", prompt=12, output=3, at=5.0)])
    # Chunks of 8 and 4 tokens, 3 s and 2 s, then two steps of 1 s.
    assert engine.prefills == [[("a", 8)], [("a", 4)], [], []]
    served = engine.served["a"]
    assert (served.first_at, served.finished_at, served.num_tokens) == (10.0, 12.0, 3)
    assert list(engine.replica.ended_at) == [8.0, 10.0, 11.0, 12.0]
    assert engine.replica.kv.free == engine.replica.kv.num_blocks


def test_decodes_run_along_and_see_their_context() -> None:
    engine = Engine()
    engine.run([arrival("a", 4, 3), arrival("b", 6, 2)])
    assert engine.prefills == [[("a", 4), ("b", 4)], [("b", 2)], []]
    shapes = [launch.shape for launch in engine.launches]
    assert [(s.num_prefill_tokens, s.num_decode_tokens, s.decode_context) for s in shapes] == [
        (8, 0, 0),
        (2, 1, 4),
        (0, 2, 5 + 6),
    ]


def test_request_that_comes_during_a_step_is_taken_in_after_it() -> None:
    engine = Engine()
    engine.run([arrival("a", 8, 2), arrival("b", 2, 1, at=0.5)])
    assert engine.prefills == [[("a", 8)], [("b", 2)]]
    assert engine.served["b"].first_at == 3.0 + 1.5


def test_decode_that_needs_a_block_under_pressure_takes_the_last_ones() -> None:
    engine = Engine(chunk=64, blocks=2)
    engine.run([arrival("a", 15, 6), arrival("b", 15, 6, at=0.1)])
    # Both grow beyond their block: the later one gives way, and is computed anew afterwards.
    assert engine.replica.num_preemptions == 1
    assert [launch.preempted for launch in engine.launches if launch.preempted] == [["b"]]
    assert engine.served["a"].num_preempted == 0
    assert engine.served["b"].num_preempted == 1
    assert engine.served["b"].num_tokens == 6
    again = [size for step in engine.prefills[2:] for name, size in step if name == "b"]
    assert sum(again) > 15


def test_preemption_spares_the_important_one_though_it_is_younger() -> None:
    engine = Engine(chunk=64, blocks=2)
    engine.run([arrival("a", 15, 6), arrival("b", 15, 6, importance=Importance.HIGH)])
    assert [launch.preempted for launch in engine.launches if launch.preempted] == [["a"]]


def test_gap_that_preemption_makes_is_a_gap_between_tokens() -> None:
    engine = Engine(chunk=64, blocks=2)
    engine.run([arrival("a", 15, 6), arrival("b", 15, 6, at=0.1)])
    (gap_s,) = engine.replica.gaps["default"].others_s
    assert gap_s > STEP_S


@pytest.mark.parametrize("block_tokens", [4, 16, 128])
def test_blocks_of_any_size_are_short_when_the_last_one_is_taken(block_tokens: int) -> None:
    """Both prompts leave a token of their block; the first to need another block takes it from the second."""
    engine = Engine(chunk=2 * block_tokens, blocks=2, block_tokens=block_tokens)
    engine.run([arrival("a", block_tokens - 1, 4), arrival("b", block_tokens - 1, 4, at=0.1)])
    assert engine.replica.num_preemptions == 1
    assert {name: served.num_tokens for name, served in engine.served.items()} == {"a": 4, "b": 4}
    assert engine.replica.kv.free == 2


@pytest.mark.parametrize("name", ["num_kv_tokens", "block_tokens"])
def test_limits_that_no_engine_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 0 is not allowed; give a whole number >= 1"):
        ReplicaLimits(**{name: 0})  # type: ignore[arg-type]


def test_waiting_request_without_room_for_its_prompt_does_not_start() -> None:
    engine = Engine(chunk=64, blocks=3)
    engine.run([arrival("a", 20, 4), arrival("b", 30, 1, at=0.1)])
    assert engine.replica.num_preemptions == 0
    started = next(n for n, step in enumerate(engine.prefills) if ("b", 30) in step)
    assert started == 4


def test_no_more_requests_run_than_there_are_places() -> None:
    engine = Engine(chunk=64, seqs=2)
    engine.run([arrival(name, 4, 3) for name in "abc"])
    assert engine.prefills[0] == [("a", 4), ("b", 4)]
    assert engine.prefills[3] == [("c", 4)]


def test_request_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="num_kv_tokens: 32 cannot hold request a with 41 tokens"):
        Engine(blocks=2).run([arrival("a", 40, 1)])
    with pytest.raises(
        ValueError, match=r"256 cannot hold request a with 270 tokens; allowed: at least 384$"
    ):
        Engine(blocks=2, block_tokens=128).run([arrival("a", 269, 1)])


def test_prefill_node_ends_a_request_with_its_first_token() -> None:
    engine = Engine(chunk=64, role="prefill")
    engine.run([arrival("a", 12, 50)])
    assert (engine.served["a"].num_tokens, engine.served["a"].finished_at) == (1, 4.0)


def test_decode_node_computes_one_token_of_a_prompt() -> None:
    engine = Engine(chunk=64, role="decode")
    engine.run([arrival("a", 40, 3)])
    assert engine.prefills == [[("a", 1)], [], []]
    assert engine.launches[1].shape.decode_context == 40


def test_stalled_decode_keeps_its_kv_and_goes_on_later() -> None:
    engine = Engine(chunk=64)
    engine.stalls = {2: ["a"], 3: ["a"]}
    engine.run([arrival("a", 15, 4, slo=Slo(tbt_s=1.5)), arrival("b", 8, 8)])
    assert [launch.shape.num_decode_tokens for launch in engine.launches] == [0, 2, 1, 1, 2, 2, 1, 1]
    assert [list(launch.stalled) for launch in engine.launches[2:4]] == [["a"], ["a"]]
    served = engine.served["a"]
    assert served.num_tokens == 4
    assert list(engine.replica.gaps["default"].others_s) == [3.0]
    assert served.is_late("strict")
    assert engine.replica.kv.free == engine.replica.kv.num_blocks
