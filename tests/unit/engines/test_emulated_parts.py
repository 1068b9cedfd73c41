"""The parts of the emulated worker that need no vLLM: its clock, its words, its view of a step."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from niyama.engines.vllm.emulatedbatch import Emission, LiveRequests
from niyama.engines.vllm.emulateddevice import SPIN_S, Device
from niyama.engines.vllm.emulatedtokens import Vocabulary, make_vocabulary
from niyama.scheduling.policy import BatchShape


class Clock:
    """Time that passes in sleeps, each of which oversleeps a little, and in looks at the clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now += duration_s + SPIN_S / 2


def test_a_step_launched_on_an_idle_device_starts_at_once() -> None:
    clock = Clock()
    device = Device(clock, clock.sleep)
    run = device.launch(0.5)
    assert run.starts_at == pytest.approx(100.0, abs=1e-4)
    assert device.wait(run) == pytest.approx(100.5, abs=SPIN_S)
    assert clock.now >= run.ends_at
    clock.now += 7.0
    assert device.launch(0.5).starts_at == pytest.approx(107.5, abs=1e-2)


def test_steps_in_flight_follow_each_other_without_a_gap() -> None:
    clock = Clock()
    device = Device(clock, clock.sleep)
    runs = [device.launch(0.010), device.launch(0.020), device.launch(0.030)]
    assert [b.starts_at - a.ends_at for a, b in itertools.pairwise(runs)] == [0.0, 0.0]
    clock.now += 0.5  # the host is late
    device.wait(runs[0])
    assert clock.slept == []
    assert device.launch(0.010).starts_at > runs[-1].ends_at


def new(request_id: str, prompt: list[int] | None, computed: int = 0, **options: Any) -> SimpleNamespace:
    given = {"logprobs": None, "prompt_logprobs": None, "min_tokens": 0, **options.pop("params", {})}
    return SimpleNamespace(
        req_id=request_id,
        prompt_token_ids=prompt,
        num_computed_tokens=computed,
        sampling_params=SimpleNamespace(**given),
        **options,
    )


def step(
    scheduled: dict[str, int],
    started: list[SimpleNamespace] | None = None,
    cached: list[tuple[str, int, int]] | None = None,
    finished: tuple[str, ...] = (),
) -> SimpleNamespace:
    columns = list(zip(*(cached or []), strict=True)) or [(), (), ()]
    return SimpleNamespace(
        finished_req_ids=set(finished),
        scheduled_new_reqs=started or [],
        num_scheduled_tokens=scheduled,
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=columns[0], num_computed_tokens=columns[1], num_output_tokens=columns[2]
        ),
    )


def test_a_chunked_prefill_puts_out_a_token_with_its_last_chunk() -> None:
    requests = LiveRequests()
    first = requests.take_in(step({"a": 6}, [new("a", [1] * 10)]))
    assert first.shape == BatchShape(6, 0, attention_pairs=18.0)
    assert first.emissions == []
    second = requests.take_in(step({"a": 4}, cached=[("a", 6, 0)]))
    assert second.shape == BatchShape(4, 0, prefill_context=6, attention_pairs=32.0)
    assert second.emissions == [Emission("a", 0)]


def test_decodes_and_prefills_of_one_step_are_told_apart() -> None:
    requests = LiveRequests()
    requests.take_in(step({"a": 10, "b": 3}, [new("a", [1] * 10), new("b", [2] * 3)]))
    batch = requests.take_in(
        step({"a": 1, "b": 1, "c": 5}, [new("c", [3] * 20, computed=16)], [("a", 10, 1), ("b", 3, 1)])
    )
    assert batch.shape.num_decode_tokens == 2
    assert batch.shape.decode_context == 13
    assert (batch.shape.num_prefill_tokens, batch.shape.prefill_context) == (5, 16)
    assert batch.emissions == [Emission("c", 0), Emission("a", 1), Emission("b", 1)]
    assert batch.request_ids == ["a", "b", "c"]


def test_a_request_that_lost_its_kv_is_in_prefill_again_and_goes_on_where_it_was() -> None:
    requests = LiveRequests()
    requests.take_in(step({"a": 10}, [new("a", [1] * 10)]))
    half = requests.take_in(step({"a": 12}, cached=[("a", 0, 5)]))
    assert (half.shape.num_prefill_tokens, half.emissions) == (12, [])
    whole = requests.take_in(step({"a": 3}, cached=[("a", 12, 5)]))
    assert (whole.shape.num_prefill_tokens, whole.emissions) == (3, [Emission("a", 5)])
    # vLLM's second model runner hands it over as a new request, answer included.
    again = requests.take_in(step({"a": 15}, [new("a", [1] * 10, prefill_token_ids=[1] * 15)]))
    assert again.emissions == [Emission("a", 5)]


def test_a_prompt_of_one_token_is_a_prefill() -> None:
    batch = LiveRequests().take_in(step({"a": 1}, [new("a", [5])]))
    assert batch.shape == BatchShape(1, 0, attention_pairs=0.5)
    assert batch.emissions == [Emission("a", 0)]


def test_finished_requests_are_forgotten() -> None:
    requests = LiveRequests()
    requests.take_in(step({"a": 1, "b": 1}, [new("a", [5]), new("b", [6])]))
    requests.take_in(step({}, finished=("a", "b")))
    assert len(requests) == 0


def test_equal_prompts_get_equal_salts_and_others_do_not() -> None:
    requests = LiveRequests()
    prompts = {"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 4]}
    requests.take_in(step(dict.fromkeys(prompts, 3), [new(i, p) for i, p in prompts.items()]))
    assert requests["a"].salt == requests["b"].salt != requests["c"].salt


def test_answers_never_end_by_themselves_and_vary() -> None:
    vocabulary = Vocabulary(list(range(10, 1010)), frozenset({2}), 2048)
    answer = [vocabulary.token(77, place) for place in range(2000)]
    assert 2 not in answer
    assert len(set(answer)) == 1000
    assert answer[:50] != [vocabulary.token(78, place) for place in range(50)]


def mask(allowed: set[int], size: int) -> Any:
    bits = np.zeros(-(-size // 32) * 32, dtype=np.uint8)
    bits[list(allowed)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def test_a_grammar_is_obeyed_and_ends_as_soon_as_it_may() -> None:
    vocabulary = Vocabulary([10, 11], frozenset({2}), 100)
    assert vocabulary.allowed_token(mask({40, 41}, 100), 5, 0, may_end=True) in {40, 41}
    assert vocabulary.allowed_token(mask({2, 40}, 100), 5, 0, may_end=True) == 2
    assert vocabulary.allowed_token(mask({2, 40}, 100), 5, 0, may_end=False) == 40
    assert vocabulary.allowed_token(mask({2}, 100), 5, 0, may_end=False) == 2
    assert vocabulary.allowed_token(mask(set(), 100), 5, 0, may_end=True) is None


class Tokenizer:
    """Spells a few ids; the others are lone bytes."""

    all_special_ids = (0,)
    spelling: ClassVar = {0: "<s>", 3: " word", 4: "more", 5: "é", 6: "12", 7: "x"}

    def decode(self, ids: list[int]) -> str:
        return self.spelling.get(ids[0], "\N{REPLACEMENT CHARACTER}")


def test_only_whole_words_are_said() -> None:
    vocabulary = make_vocabulary(Tokenizer(), frozenset({4}), 20)
    assert {vocabulary.token(1, place) for place in range(50)} == {3}
    without = make_vocabulary(None, frozenset({1}), 4)
    assert {without.token(1, place) for place in range(50)} == {0, 2, 3}
