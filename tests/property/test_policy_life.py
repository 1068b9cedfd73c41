"""The laws, whatever happens to requests, in any order (docs/laws.md)."""

from __future__ import annotations

from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.property.drawn import LAWS, MAX_OUTPUT, NAMES, requests
from tests.property.hosts import Host, linear_model

from niyama.scheduling.registry import make_policy


class Life(RuleBasedStateMachine):
    """Requests come, run, finish, are aborted, stall and lose their memory, in any order."""

    @initialize(
        name=st.sampled_from(NAMES),
        depth=st.sampled_from([1, 2]),
        num_spec=st.sampled_from([0, 0, 2]),
        num_blocks=st.sampled_from([50, 80, 400]),
        max_seqs=st.sampled_from([2, 5, 64]),
        anchor=st.sampled_from(["strict", "paper"]),
        slowness=st.lists(st.sampled_from([0.5, 1.0, 1.5, 6.0]), min_size=1, max_size=5),
    )
    def start(
        self,
        name: str,
        depth: int,
        num_spec: int,
        num_blocks: int,
        max_seqs: int,
        anchor: Literal["strict", "paper"],
        slowness: list[float],
    ) -> None:
        self.host = Host(
            make_policy(name, linear_model(margin=0.1), anchor),
            num_blocks=num_blocks,
            max_seqs=max_seqs,
            depth=depth,
            num_spec=num_spec,
            slowness=tuple(slowness),
        )
        self.count = 0

    @rule(data=st.data(), num_output=st.integers(1, MAX_OUTPUT), surprise=st.integers(0, 64))
    def arrive(self, data: st.DataObject, num_output: int, surprise: int) -> None:
        self.count += 1
        request = data.draw(requests(f"r{self.count}", self.host.now_s))
        self.host.arrive(request, num_output, request.num_cached_tokens + surprise)

    @rule(num_steps=st.integers(1, 12))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.host.step()

    @precondition(lambda self: self.host.live)
    @rule(pick=st.integers(0, 10**6))
    def abort(self, pick: int) -> None:
        self.host.abort(sorted(self.host.live)[pick % len(self.host.live)])

    @precondition(lambda self: self.host.live)
    @rule(pick=st.integers(0, 10**6))
    def stall(self, pick: int) -> None:
        self.host.stalls ^= {sorted(self.host.live)[pick % len(self.host.live)]}

    @rule(share=st.sampled_from([0.0, 0.1, 1.0]))
    def squeeze(self, share: float) -> None:
        """Others take, or give back, part of the memory that is free; 46 blocks hold any one request."""
        host = self.host
        host.reserved = max(0, min(int((host.free_blocks + host.reserved) * share), host.num_blocks - 50))

    @rule(pause_s=st.sampled_from([0.125, 2.0, 100.0]))
    def idle(self, pause_s: float) -> None:
        while self.host.num_in_flight:
            self.host.step()
        self.host.now_s += pause_s

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "host"):
            self.host.check()

    def teardown(self) -> None:
        if hasattr(self, "host"):
            self.host.reserved = 0
            self.host.stalls.clear()
            self.host.run()
            assert len(self.host.verdicts) == self.count


TestLife = Life.TestCase
TestLife.settings = settings(LAWS, max_examples=120, stateful_step_count=30)
