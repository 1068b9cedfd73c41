from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from niyama.emulation import CONFIG_KEY, WORKER, Emulation, EmulationError, emulated_words, scaled_book
from niyama.qos import paper_book
from niyama.qosfile import book_from_mapping, book_to_mapping

A100 = "a100-80gb/llama-3-8b/tp1"


def test_emulation_survives_its_environment_variable() -> None:
    emulation = Emulation(A100, 4, kv_tokens=1000, async_scheduling=False, step_log="steps.jsonl")
    found = Emulation.from_environment({}, {"NIYAMA_EMULATION": emulation.to_json()})
    assert found == emulation


def test_additional_config_wins_over_the_environment() -> None:
    environ = {"NIYAMA_EMULATION": Emulation(A100, 4).to_json()}
    found = Emulation.from_environment({CONFIG_KEY: {"profile": A100, "speedup": 2}}, environ)
    assert found.speedup == 2


@pytest.mark.parametrize(
    ("worker", "words"), [("auto", None), (WORKER, f"EMULATED step times of {A100}, 4 times faster")]
)
def test_engine_says_whose_step_times_it_imitates(worker: str, words: str | None) -> None:
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(worker_cls=worker),
        additional_config={CONFIG_KEY: {"profile": A100, "speedup": 4}},
    )
    assert emulated_words(config) == words


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"profile": "b200"}, ["profile", "'b200'", A100]),
        ({"profile": A100, "speedup": 0}, ["speedup", "0", "> 0"]),
        ({"profile": A100, "speedup": float("nan")}, ["speedup", "nan"]),
        ({"profile": A100, "speedup": "8"}, ["speedup", "'8'"]),
        ({"profile": A100, "kv_tokens": True}, ["kv_tokens", "True"]),
        ({"profile": A100, "kv_tokens": 0}, ["kv_tokens", "0", ">= 1"]),
        ({"profile": A100, "kv_tokens": 1.5}, ["kv_tokens", "1.5"]),
        ({"profile": A100, "async_scheduling": 1}, ["async_scheduling", "1", "true"]),
        ({"profile": A100, "step_log": ""}, ["step_log", "''"]),
        ({"profile": A100, "spedup": 2}, ["spedup", "speedup"]),
        ({}, ["profile"]),
        ([], ["mapping"]),
    ],
)
def test_an_unusable_emulation_is_refused_in_one_line(mapping: object, words: list[str]) -> None:
    with pytest.raises(EmulationError) as caught:
        Emulation.from_environment({CONFIG_KEY: mapping}, {})
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("text", ["", "{", json.dumps([])])
def test_a_worker_without_an_emulation_says_so(text: str) -> None:
    with pytest.raises(EmulationError, match="profile"):
        Emulation.from_environment({}, {"NIYAMA_EMULATION": text})


def test_scaled_book_divides_every_duration_and_nothing_else() -> None:
    book = book_from_mapping(
        {
            "default": "chat",
            "classes": {"chat": {"ttft": "2s", "tbt": "40ms", "importance": "high"}, "night": {"ttlt": "8h"}},
            "service_tiers": {"flex": "night"},
            "client_slos": {"min_ttft": "800ms", "min_tbt": "16ms", "min_ttlt": "8s"},
        }
    )
    scaled = scaled_book(book, 8)
    assert scaled.classes["chat"].slo.ttft_s == 0.25
    assert scaled.classes["chat"].slo.tbt_s == 0.005
    assert scaled.classes["chat"].slo.ttlt_s is None
    assert scaled.classes["night"].slo.ttlt_s == 3600
    assert scaled.classes["chat"].importance == book.classes["chat"].importance
    assert scaled.client_slos.min_ttft_s == 0.1
    assert scaled.client_slos.min_tbt_s == 0.002
    assert scaled.client_slos.min_ttlt_s == 1
    assert (scaled.default, scaled.service_tiers) == (book.default, book.service_tiers)


@pytest.mark.parametrize("speedup", [0.001, 0.3, 3, 7, 11.7, 16, 1000])
def test_a_scaled_book_can_be_written_and_read(speedup: float) -> None:
    book = scaled_book(paper_book(), speedup)
    assert book_from_mapping(book_to_mapping(book)) == book
    assert book.classes["interactive"].slo.tbt_s == pytest.approx(0.05 / speedup, abs=1e-6)


def test_scaled_book_at_speed_one_is_the_book() -> None:
    assert scaled_book(paper_book(), 1) == paper_book()
