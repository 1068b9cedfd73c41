from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic

import pytest
from tests.contract.engine_contract import EngineContract
from tests.contract.hosts import BOOK, HostMaker, P
from tests.engine.httpserver import LIVE
from tests.engine.rig import BLOCK_TOKENS, Ask, Rig, name_of
from tests.engine.workload import prompt

from niyama.scheduling.lawful import unwrapped
from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine


class VllmHost(Generic[P]):
    """Niyama's scheduler on a real vLLM engine in this process."""

    def __init__(self, rig: Rig, kind: type[P], num_kv_tokens: int | None) -> None:
        self._rig = rig
        self._prompts: dict[str, list[int]] = {}
        # vLLM keeps one block for itself.
        num_blocks = None if num_kv_tokens is None else num_kv_tokens // BLOCK_TOKENS + 1
        self._scheduler = rig.use(policy="contract", num_blocks=num_blocks, qos=BOOK, check_laws=True)
        policy = unwrapped(self._scheduler.niyama.policy)
        assert isinstance(policy, kind)
        self.policy: P = policy

    def submit(
        self,
        name: str,
        num_prompt_tokens: int,
        num_output_tokens: int,
        qos_class: str = "patient",
        *,
        again: str | None = None,
    ) -> None:
        words = prompt(num_prompt_tokens, seed=len(self._prompts)) if again is None else self._prompts[again]
        assert len(words) == num_prompt_tokens
        self._prompts[name] = words
        self._rig.submit(Ask(name, words, max_tokens=num_output_tokens, qos_class=qos_class))

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
        def make(policy: type[P], num_kv_tokens: int | None = None) -> VllmHost[P]:
            made: Callable[..., P] = lambda model, *_: policy(model, name_of)  # noqa: E731
            monkeypatch.setitem(POLICIES, "contract", made)
            return VllmHost(rig, policy, num_kv_tokens)

        return make
