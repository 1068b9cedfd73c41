from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

import pytest
from tests.contract.engine_contract import EngineContract
from tests.contract.hosts import BOOK, ENGINE_BUDGET, MAX_SEQS, HostMaker, P

from niyama.latency import get_profile
from niyama.qosfile import book_from_mapping
from niyama.scheduling.policy import Request
from niyama.sim.checked import CheckedPolicy, CheckedReplica
from niyama.sim.kv import BLOCK_TOKENS
from niyama.sim.live import ReplicaLimits
from niyama.sim.verdicts import Served
from niyama.workload.generate import Arrival

CLASSES = book_from_mapping(BOOK).classes


class SimulatorHost(Generic[P]):
    """A simulated engine that checks every law at every step."""

    def __init__(self, kind: type[P], num_kv_tokens: int | None) -> None:
        profile = get_profile("a100-80gb/llama-3-8b/tp1", margin=0.2)
        limits = ReplicaLimits(
            num_kv_tokens=num_kv_tokens or 100_000,
            max_num_seqs=MAX_SEQS,
            max_num_batched_tokens=ENGINE_BUDGET,
        )
        self.policy: P = kind(profile)
        self._replica = CheckedReplica(CheckedPolicy(self.policy), profile, limits, self._keep)
        self._num_outputs: dict[str, int] = {}
        self._first_tokens: list[str] = []

    def _keep(self, served: Served) -> None:
        self._num_outputs[served.request.request_id] = served.num_tokens

    def submit(
        self,
        name: str,
        num_prompt_tokens: int,
        num_output_tokens: int,
        qos_class: str = "patient",
        *,
        again: str | None = None,
    ) -> None:
        asked = CLASSES[qos_class]
        # Arrivals say themselves what of them is cached; whole blocks are, but for the last token.
        num_cached = 0 if again is None else (num_prompt_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        request = Request(
            name,
            self._replica.now_s,
            asked.slo,
            num_prompt_tokens,
            4096,
            qos_class=qos_class,
            importance=asked.importance,
            num_cached_tokens=num_cached,
        )
        self._replica.arrive(Arrival(request, num_output_tokens))

    def abort(self, name: str) -> None:
        self._num_outputs[name] = self.num_output_tokens(name)
        self._replica.abort(name)

    def step(self) -> None:
        self._replica.step()
        for done in self.policy.launches[-1].prefills:
            if not done.remaining and done.request_id not in self._first_tokens:
                self._first_tokens.append(done.request_id)

    def is_busy(self) -> bool:
        return bool(self._replica.live)

    def num_output_tokens(self, name: str) -> int:
        live = self._replica.live.get(name)
        if live is None:
            return self._num_outputs.get(name, 0)
        in_stretch = len(self._replica.ended_at) - live.first_step if live.first_step >= 0 else 0
        return live.num_emitted + in_stretch

    def first_tokens(self) -> Sequence[str]:
        return self._first_tokens

    def num_computed_tokens(self, name: str) -> int:
        live = self._replica.live[name]
        return live.computed if live.first_step < 0 else live.num_kv_tokens(len(self._replica.ended_at))

    def kv_usage(self) -> float:
        return 1.0 - self._replica.kv.free / self._replica.kv.num_blocks

    def live_requests(self) -> int:
        return len(self._replica.live)


class TestSimulator(EngineContract):
    @pytest.fixture
    def make_host(self) -> HostMaker:
        def make(policy: type[P], num_kv_tokens: int | None = None) -> SimulatorHost[P]:
            return SimulatorHost(policy, num_kv_tokens)

        return make
