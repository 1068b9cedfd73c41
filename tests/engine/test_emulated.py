"""The emulated device under vLLM's own engine, with its scheduler and with ours."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.rig import Ask, Rig
from tests.engine.workload import asks

from niyama.emulation import Emulation, EmulationError
from niyama.latency import get_profile
from niyama.scheduling.policy import BatchShape

pytestmark = pytest.mark.engine

PROFILE = "a100-80gb/llama-3-8b/tp1"
SPEEDUP = 200.0
WORKLOAD = asks(14, prompts=(20, 900), outputs=(5, 40))
PRESSING = asks(12, prompts=(20, 60), outputs=(60, 150))
"""More answer than 24 blocks of KV hold at once."""

LENGTHS = {ask.name: ask.max_tokens for ask in WORKLOAD}


class Emulated:
    """The rig, whose worker is the emulated one for a while."""

    def __init__(self, rig: Rig, log: Path) -> None:
        self.rig = rig
        self.log = log

    def steps(self) -> list[dict[str, Any]]:
        """Return the worker's own log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def emulated(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    from niyama.engines.vllm.emulated import EmulatedWorker

    log = tmp_path / "device.jsonl"
    emulation = Emulation(PROFILE, SPEEDUP, kv_tokens=4096, async_scheduling=False, step_log=str(log))
    monkeypatch.setenv("NIYAMA_EMULATION", emulation.to_json())
    rig.drain()
    wrapper = rig.core.model_executor.driver_worker
    real = wrapper.worker
    worker = EmulatedWorker(rig.core.vllm_config, 0, 0, "", True)
    worker.init_device()
    worker.load_model()
    wrapper.worker = worker
    yield Emulated(rig, log)
    rig.drain()
    wrapper.worker = real
    worker.shutdown()


def use(rig: Rig, scheduler: str, **options: Any) -> Any:
    return rig.use_stock(**options) if scheduler == "stock" else rig.use(policy=scheduler, **options)


@pytest.mark.parametrize("scheduler", ["stock", "niyama", "fcfs"])
def test_every_answer_has_the_asked_length_and_repeats(emulated: Emulated, scheduler: str) -> None:
    rig = emulated.rig
    use(rig, scheduler)
    first = rig.run(WORKLOAD)
    assert {name: len(tokens) for name, tokens in first.items()} == LENGTHS
    use(rig, scheduler)
    assert rig.run(WORKLOAD) == first


def test_answers_do_not_depend_on_the_scheduler(emulated: Emulated) -> None:
    emulated.rig.use_stock()
    stock = emulated.rig.run(WORKLOAD)
    emulated.rig.use(policy="niyama")
    assert emulated.rig.run(WORKLOAD) == stock
    assert len({tuple(tokens[:5]) for tokens in stock.values()}) == len(WORKLOAD)


def test_a_step_is_asked_to_last_what_the_profile_says_of_its_true_batch(emulated: Emulated) -> None:
    emulated.rig.use(policy="niyama")
    emulated.rig.run(WORKLOAD)
    steps = emulated.steps()
    profile = get_profile(PROFILE)
    for step in steps:
        shape = BatchShape(**{name: step[name] for name in BatchShape._fields})
        assert step["asked_s"] == pytest.approx(profile.predict_s(shape) / SPEEDUP, rel=1e-6)
        assert step["took_s"] >= step["asked_s"] - 1e-6
    prompts = sum(len(ask.prompt) for ask in WORKLOAD)
    assert sum(step["num_prefill_tokens"] for step in steps) == prompts
    assert sum(step["num_decode_tokens"] for step in steps) == sum(n - 1 for n in LENGTHS.values())
    assert all(b["started_at"] > a["started_at"] for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize("scheduler", ["stock", "niyama"])
@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
def test_preempted_requests_go_on_where_they_were(
    emulated: Emulated, scheduler: str, pipelined: bool
) -> None:
    rig = emulated.rig
    rig.use_stock()
    expected = rig.run(PRESSING)
    num_steps = len(emulated.steps())
    preempted: set[str] = set()

    def look(number: int) -> None:
        preempted.update(i for i, r in rig.scheduler.requests.items() if r.num_preemptions)

    use(rig, scheduler, num_blocks=24, pipelined=pipelined)
    assert rig.run(PRESSING, at_step=look) == expected
    assert preempted, "the test needs KV pressure"
    computed = sum(step["num_prefill_tokens"] for step in emulated.steps()[num_steps:])
    assert computed > sum(len(ask.prompt) for ask in PRESSING), "lost KV is computed again"


def test_steps_in_flight_leave_no_gap_on_the_device(emulated: Emulated) -> None:
    emulated.rig.use(policy="niyama", pipelined=True)
    assert {n: len(t) for n, t in emulated.rig.run(WORKLOAD).items()} == LENGTHS
    steps = emulated.steps()
    ends = [step["started_at"] + step["asked_s"] for step in steps]
    starts = [step["started_at"] for step in steps[1:]]
    gaps = [start - end for end, start in zip(ends, starts, strict=False)]
    assert min(gaps) >= -1e-6, "one device runs one step at a time"


def test_a_cached_prefix_takes_no_time(emulated: Emulated) -> None:
    rig = emulated.rig
    rig.use(policy="niyama")
    prompt = list(range(300, 300 + 640))
    rig.run([Ask("first", prompt)])
    rig.run([Ask("again", prompt)])
    chunks = [step["num_prefill_tokens"] for step in emulated.steps() if step["num_prefill_tokens"]]
    assert sum(chunks) == 640 + 32
    assert rig.outputs["again"].num_cached_tokens == 608


def test_aborted_requests_are_forgotten(emulated: Emulated) -> None:
    rig = emulated.rig
    rig.use(policy="niyama")
    for ask in WORKLOAD:
        rig.submit(dataclasses.replace(ask, max_tokens=1000))
    for _ in range(20):
        rig.step()
    rig.abort(*LENGTHS)
    rig.drain()
    worker = rig.core.model_executor.driver_worker.worker
    rig.submit(Ask("last", [7] * 10, max_tokens=1))
    rig.drain()
    rig.step()
    assert len(worker._requests) <= 1


def test_logprobs_are_those_of_equally_likely_tokens(emulated: Emulated) -> None:
    rig = emulated.rig
    rig.use(policy="niyama")
    plain = Ask("plain", [9] * 20, max_tokens=4)
    asked = Ask("asked", [8] * 600, max_tokens=4, options={"logprobs": 3, "prompt_logprobs": 1})
    rig.run([plain, asked])
    output = rig.outputs["asked"]
    size = rig.core.vllm_config.model_config.get_vocab_size()
    for token, row in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
        assert token in row
        assert len(row) == 4
        assert {round(entry.logprob, 3) for entry in row.values()} == {round(-math.log(size), 3)}
    assert len(output.prompt_logprobs) == 600
    assert rig.outputs["plain"].outputs[0].logprobs is None


@pytest.mark.filterwarnings("ignore:max_rollback_tokens:DeprecationWarning")  # xgrammar's, used by vLLM
@pytest.mark.parametrize("scheduler", ["stock", "niyama"])
def test_structured_output_obeys_its_grammar(emulated: Emulated, scheduler: str) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    rig = emulated.rig
    use(rig, scheduler)
    ask = Ask(
        "code",
        [11] * 20,
        max_tokens=30,
        options={
            "ignore_eos": False,
            "structured_outputs": StructuredOutputsParams(regex="[0-9]{3}-[a-z]{2}"),
        },
    )
    rig.run([ask, *WORKLOAD[:3]])
    answer = rig.outputs["code"].outputs[0]
    assert re.fullmatch("[0-9]{3}-[a-z]{2}", answer.text)
    assert answer.finish_reason == "stop"


def test_options_that_need_a_computing_model_are_refused(rig: Rig) -> None:
    from niyama.engines.vllm.emulated import refuse_unsupported

    config = rig.core.vllm_config
    refuse_unsupported(config)
    with pytest.raises(EmulationError, match=re.escape("--enable-lora")):
        refuse_unsupported(_Changed(config, lora_config=object()))


class _Changed:
    """An object with some attributes replaced."""

    def __init__(self, base: Any, **changes: Any) -> None:
        self._base = base
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)
