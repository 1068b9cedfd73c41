from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from tests.contract.engine_contract import EngineContract, HostMaker, Scripted
from tests.engine.httpserver import LIVE
from tests.engine.rig import BLOCK_TOKENS, Ask, Rig, name_of
from tests.engine.workload import prompt

from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine


class VllmHost:
    """Niyama's scheduler on a real vLLM engine in this process."""

    def __init__(self, rig: Rig, num_kv_tokens: int | None) -> None:
        self._rig = rig
        # vLLM keeps one block for itself.
        num_blocks = None if num_kv_tokens is None else num_kv_tokens // BLOCK_TOKENS + 1
        self._scheduler = rig.use(policy="scripted", num_blocks=num_blocks)
        self.policy = cast(Scripted, self._scheduler.niyama.policy)

    def submit(self, name: str, num_prompt_tokens: int, num_output_tokens: int) -> None:
        words = prompt(num_prompt_tokens, seed=len(self._rig.seen_ids))
        self._rig.submit(Ask(name, words, max_tokens=num_output_tokens))

    def abort(self, name: str) -> None:
        self._rig.abort(name)

    def step(self) -> None:
        self._rig.step()

    def is_busy(self) -> bool:
        return self._rig.is_busy

    def num_output_tokens(self, name: str) -> int:
        output: Any = self._rig.outputs.get(name)
        return 0 if output is None else len(output.outputs[0].token_ids)

    def first_tokens(self) -> Sequence[str]:
        return self._rig.first_tokens

    def num_computed_tokens(self, name: str) -> int:
        return int(self._rig.request(name).num_computed_tokens)

    def kv_usage(self) -> float:
        return float(self._scheduler("state")["kv_usage"])

    def live_requests(self) -> int:
        classes = self._scheduler("state")["classes"].values()
        return sum(counts[key] for counts in classes for key in LIVE)


class TestVllm(EngineContract):
    @pytest.fixture
    def make_host(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> HostMaker:
        scripted: Callable[..., Scripted] = lambda model, *_: Scripted(model, name_of)  # noqa: E731
        monkeypatch.setitem(POLICIES, "scripted", scripted)
        return lambda num_kv_tokens: VllmHost(rig, num_kv_tokens)
