"""One real vLLM engine in this process; every test gives it a scheduler of its own.

An engine takes seconds to start, a scheduler a millisecond. The scheduler holds all state of the
requests, so a fresh one on the idle engine is a fresh engine, and with fewer KV blocks a smaller one.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from niyama import demo_model
from niyama.scheduling.registry import POLICIES

BLOCK_TOKENS = 32
MAX_MODEL_TOKENS = 2048
MAX_STEPS = 20_000
"""A run that takes more steps hangs."""

_LAWFUL = frozenset(POLICIES)
"""Policies that are held to the laws at every step; those that tests register break them on purpose."""

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    # One thread is the fastest for so small a model, and does not fight with others for the cores.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request of a test; `options` are further sampling parameters."""

    name: str
    prompt: Sequence[int]
    max_tokens: int = 8
    qos_class: str = "interactive"
    priority: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Rig:
    """The engine, and what came out of it since its scheduler was set."""

    def __init__(self, cache: Path) -> None:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from niyama.engines.vllm import factory

        made: list[dict[str, Any]] = []
        make_scheduler = factory.make_scheduler
        factory.make_scheduler = lambda **kwargs: made.append(kwargs) or make_scheduler(**kwargs)  # type: ignore[func-returns-value]
        try:
            self.engine = LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(demo_model.make(cache / "demo")),
                    dtype="float32",
                    enforce_eager=True,
                    block_size=BLOCK_TOKENS,
                    max_model_len=MAX_MODEL_TOKENS,
                    max_num_batched_tokens=512,
                    max_num_seqs=32,
                    scheduler_cls="niyama.engines.vllm.scheduler",
                )
            )
        finally:
            factory.make_scheduler = make_scheduler
        self._kwargs = made[0]
        self._step = self.core.step_fn
        self._expected: dict[str, dict[str, list[int]]] = {}
        self._reset()

    def _reset(self) -> None:
        self.outputs: dict[str, Any] = {}
        self.first_tokens: list[str] = []
        """Names of requests in the order of their first tokens."""
        self.seen_ids: set[str] = set()
        """vLLM's ids of all requests since the scheduler was set."""
        self.num_steps = 0

    @property
    def core(self) -> Any:
        return self.engine.engine_core.engine_core

    @property
    def scheduler(self) -> Any:
        return self.core.scheduler

    @property
    def is_busy(self) -> bool:
        """Whether a request, a step in flight or news for the worker is left."""
        return bool(self.scheduler.has_requests() or self.core.batch_queue)

    def use(
        self,
        make: Callable[..., Any] | None = None,
        num_blocks: int | None = None,
        scheduling_policy: str = "fcfs",
        pipelined: bool = False,
        **settings: Any,
    ) -> Any:
        """Give the engine a fresh scheduler of Niyama's, or of `make`, and return it.

        `pipelined` schedules a step while the one before is in flight, as vLLM does on GPUs.
        """
        from niyama.engines.vllm.factory import make_scheduler

        self.drain()
        self.scheduler.shutdown()
        config = self._kwargs["vllm_config"]
        config.additional_config = {
            "niyama": {"check_laws": settings.get("policy", "niyama") in _LAWFUL, **settings}
        }
        config.scheduler_config.policy = scheduling_policy
        config.scheduler_config.async_scheduling = pipelined
        blocks = self._kwargs["kv_cache_config"]
        if num_blocks is not None:
            blocks = dataclasses.replace(blocks, num_blocks=num_blocks)
        core = self.core
        core.scheduler = (make or make_scheduler)(**{**self._kwargs, "kv_cache_config": blocks})
        core.batch_queue = deque(maxlen=2) if pipelined else None
        core.batch_queue_size = 2 if pipelined else 1
        core.step_fn = core.step_with_batch_queue if pipelined else self._step
        self._reset()
        return core.scheduler

    def use_stock(self, **options: Any) -> Any:
        """Give the engine a fresh scheduler of vLLM's own."""
        from vllm.v1.core.sched.scheduler import Scheduler

        return self.use(Scheduler, **options)

    def submit(self, ask: Ask) -> None:
        from vllm import SamplingParams

        options: dict[str, Any] = {
            "temperature": 0.0,
            "ignore_eos": True,
            "extra_args": {"niyama_class": ask.qos_class},
            **ask.options,
        }
        params = SamplingParams(max_tokens=ask.max_tokens, **options)
        prompt: Any = {"prompt_token_ids": list(ask.prompt)}
        self.engine.add_request(ask.name, prompt, params, priority=ask.priority)
        self.seen_ids |= self.scheduler.requests.keys()

    def abort(self, *names: str) -> None:
        self.engine.abort_request(list(names))

    def step(self) -> None:
        """Run one engine step and take in what it put out."""
        self.num_steps += 1
        for output in self.engine.step():
            if output.request_id not in self.outputs and any(o.token_ids for o in output.outputs):
                self.first_tokens.append(output.request_id)
            self.outputs[output.request_id] = output

    def drain(self) -> int:
        """Step until nothing is left, not even news for the worker; return the number of steps."""
        for num_steps in range(MAX_STEPS):
            if not self.is_busy:
                return num_steps
            self.step()
        raise AssertionError(f"still busy after {MAX_STEPS} steps")

    def run(
        self, asks: Sequence[Ask], at_step: Callable[[int], object] | None = None
    ) -> dict[str, list[int]]:
        """Run requests to their end, two arriving per step; return the tokens of each by name."""
        waiting = list(asks)
        for number in range(MAX_STEPS):
            for ask in waiting[:2]:
                self.submit(ask)
            del waiting[:2]
            if not waiting and not self.is_busy:
                return self.tokens()
            if at_step is not None:
                at_step(number)
            self.step()
        raise AssertionError(f"still busy after {MAX_STEPS} steps")

    def expected(self, asks: Sequence[Ask]) -> dict[str, list[int]]:
        """Return what stock vLLM answers, by its own scheduler on this engine."""
        key = repr(asks)
        if key not in self._expected:
            self.use_stock()
            self._expected[key] = self.run(asks)
            assert len(self._expected[key]) == len(asks)
        return self._expected[key]

    def tokens(self) -> dict[str, list[int]]:
        """Return the tokens of the finished requests by name."""
        return {
            name: list(output.outputs[0].token_ids)
            for name, output in self.outputs.items()
            if output.finished and len(output.outputs) == 1
        }

    def request(self, name: str) -> Any:
        """Return vLLM's request; its id is the name and a random suffix."""
        found = [r for i, r in self.scheduler.requests.items() if name_of(i) == name]
        assert len(found) == 1, f"{name}: {len(found)} requests"
        return found[0]

    def shutdown(self) -> None:
        self.engine.engine_core.shutdown()


def name_of(request_id: str) -> str:
    """Return the name that a test gave a request of vLLM's."""
    return request_id.rpartition("-")[0]


def require_vllm() -> None:
    """Skip the test where vLLM is not installed; does not import it, see `start`."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")


_started: list[Rig] = []


def start(cache: Path) -> Rig:
    """Return the one engine of this process, started on first use.

    The environment has to be set before torch is imported: it counts its threads then.
    """
    if not _started:
        os.environ.update(_ENVIRONMENT)
        _started.append(Rig(cache))
    return _started[0]


def stop() -> None:
    """End the engine; a second call does nothing."""
    while _started:
        _started.pop().shutdown()
