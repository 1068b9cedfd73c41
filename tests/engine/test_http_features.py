"""vLLM's features over HTTP, each as a client meets it, on one server."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.engine.httpserver import Server, wait_until
from tests.engine.rig import Rig
from tests.engine.traces import check_step_log, read_step_log
from tests.engine.workload import asks, prompt

pytestmark = pytest.mark.engine

QUESTION: Any = [{"role": "user", "content": "please write a story"}]
CLASS_OF_NUMBER = ("interactive", "batch", "background")


def test_completions_match_stock_vllm(server: Server, rig: Rig) -> None:
    workload = asks(12, prompts=(20, 300), outputs=(5, 30), seed=4)
    rig.use_stock()
    rig.run(workload)
    expected = [rig.outputs[ask.name].outputs[0].text for ask in workload]

    def complete(number: int) -> str:
        ask = workload[number]
        answer = server.complete(
            prompt=list(ask.prompt), max_tokens=ask.max_tokens, vllm_xargs={"niyama_class": ask.qos_class}
        )
        text: str = answer["choices"][0]["text"]
        return text

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(complete, range(len(workload)))) == expected


def test_completion_stream_equals_the_whole_answer(server: Server) -> None:
    asked: dict[str, Any] = {
        "model": "demo",
        "prompt": prompt(40, seed=1),
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = server.openai.completions.create(**asked)
    events = list(
        server.openai.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(event.choices[0].text for event in events if event.choices) == whole.choices[0].text
    assert len([event for event in events if event.choices]) > 5
    assert whole.usage is not None
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens == 12


def test_chat_stream_equals_the_whole_answer(server: Server) -> None:
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": QUESTION,
        "max_tokens": 12,
        "temperature": 0,
        "service_tier": "flex",
    }
    whole = server.openai.chat.completions.with_raw_response.create(**asked)
    assert whole.headers["x-niyama-class"] == "batch"
    answer = whole.parse()
    assert answer.service_tier == "flex"
    words = [
        event.choices[0].delta.content or ""
        for event in server.openai.chat.completions.create(**asked, stream=True)
    ]
    assert "".join(words) == answer.choices[0].message.content
    assert len(words) > 5


def test_equal_prompt_is_taken_from_the_prefix_cache(server: Server) -> None:
    long = prompt(600, seed=11)
    first = server.complete(prompt=long)
    before = len(read_step_log(server.step_log_path))
    second = server.complete(prompt=long)
    assert second["choices"][0]["text"] == first["choices"][0]["text"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert 500 < cached < 600
    steps = read_step_log(server.step_log_path)[before:]
    assert sum(step["num_prefill_tokens"] for step in steps) == 600 - cached


def test_several_answers_per_prompt(server: Server) -> None:
    # No seed: on the CPU vLLM dies of a seeded request whose prefill is split, with any scheduler.
    answer = server.complete(prompt=prompt(50, seed=2), n=3, temperature=2.0, max_tokens=20)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({choice["text"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["completion_tokens"] == 60


def test_stop_string_ends_the_answer_before_it(server: Server) -> None:
    asked = prompt(30, seed=6)
    whole = server.complete(prompt=asked, max_tokens=30)["choices"][0]["text"]
    stop = whole[10:14]
    choice = server.complete(prompt=asked, max_tokens=30, stop=[stop])["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == whole[: whole.index(stop)]


def test_answer_ended_by_a_stop_string_counts_as_finished(server: Server) -> None:
    asked = prompt(30, seed=6)
    stop = server.complete(prompt=asked, max_tokens=30)["choices"][0]["text"][10:14]
    wait_until(lambda: not server.live_requests(), "all requests are gone")
    before = server.state()["classes"]["batch"]
    server.complete(prompt=asked, max_tokens=30, stop=stop, vllm_xargs={"niyama_class": "batch"})
    wait_until(lambda: not server.live_requests(), "the request is gone")
    after = server.state()["classes"]["batch"]
    assert after["aborted"] == before["aborted"]
    assert after["met"] + after["missed"] == before["met"] + before["missed"] + 1


def test_json_schema_is_obeyed(server: Server) -> None:
    import jsonschema  # type: ignore[import-untyped]  # it comes with vLLM

    schema = {
        "type": "object",
        "properties": {
            "color": {"enum": ["red", "green", "blue"]},
            "sizes": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 2},
            "is_round": {"type": "boolean"},
        },
        "required": ["color", "sizes", "is_round"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}

    def ask(number: int) -> str:
        answer = server.openai.chat.completions.create(
            model="demo",
            messages=QUESTION,
            max_tokens=400,
            temperature=0,
            response_format=wanted,
            extra_body={"vllm_xargs": {"niyama_class": CLASS_OF_NUMBER[number % 3]}},
        )
        assert answer.choices[0].finish_reason == "stop", answer
        return answer.choices[0].message.content or ""

    with ThreadPoolExecutor(4) as pool:
        for text in pool.map(ask, range(4)):
            jsonschema.validate(json.loads(text), schema)


def test_logprobs_name_the_chosen_tokens(server: Server) -> None:
    logprobs = server.complete(prompt=prompt(30, seed=8), logprobs=3, max_tokens=5)["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == 5
    for chosen, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert len(top) >= 3
        assert top[chosen] == logprob == max(top.values())


def test_lora_adapter_answers_beside_its_base_model(server: Server) -> None:
    asked = prompt(40, seed=9)
    base, adapted = (server.complete(prompt=asked, model=name) for name in ("demo", "tiny"))
    with ThreadPoolExecutor(6) as pool:
        names = ("demo", "tiny") * 3
        answers = list(pool.map(lambda name: server.complete(prompt=asked, model=name), names))
    assert base["choices"][0]["text"] != adapted["choices"][0]["text"]
    for name, answer in zip(names, answers, strict=True):
        assert answer["choices"] == (base if name == "demo" else adapted)["choices"]


def test_priority_is_taken_from_body_and_told_to_nobody_else(server: Server) -> None:
    asked = prompt(40, seed=12)
    texts = {server.complete(prompt=asked, priority=value)["choices"][0]["text"] for value in (-3, 0, 3)}
    assert len(texts) == 1


@pytest.mark.parametrize("num_tokens", [20, 3000], ids=["in decode", "in prefill"])
def test_disconnect_frees_everything(server: Server, num_tokens: int) -> None:
    before = server.state()["classes"]["batch"]["aborted"]
    body = {
        "model": "demo",
        "prompt": prompt(num_tokens, seed=13),
        "max_tokens": 4000,
        "ignore_eos": True,
        "stream": True,
        "vllm_xargs": {"niyama_class": "batch"},
    }
    with server.http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        wait_until(server.live_requests, "the request is in")
        if num_tokens < 100:
            lines = (line for line in answer.iter_lines() if line)
            assert [next(lines) for _ in range(3)]
    wait_until(lambda: server.live_requests() == 0, "the request is gone")
    state = server.state()
    assert state["classes"]["batch"]["aborted"] == before + 1
    assert state["kv_usage"] == 0
    assert state["num_running"] == state["num_waiting"] == 0


def test_crowd_that_leaves_frees_everything(server: Server) -> None:
    """More clients than may run at once, so that some leave while they are still in the queue."""
    count = 40
    ready = threading.Barrier(count + 1)
    before = sum(counts["aborted"] for counts in server.state()["classes"].values())

    def leave_early(number: int) -> None:
        body = {
            "model": "demo",
            "prompt": prompt(200, seed=100 + number),
            "max_tokens": 3000,
            "ignore_eos": True,
            "stream": True,
            "vllm_xargs": {"niyama_class": CLASS_OF_NUMBER[number % 3]},
        }
        # Ready before all start, and without certificates to read, so that all ask at one instant.
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False, verify=False) as client:
            ready.wait()
            with client.stream("POST", "/v1/completions", json=body):
                gone.wait(60)

    gone = threading.Event()
    threads = [threading.Thread(target=leave_early, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        ready.wait()
        wait_until(lambda: server.live_requests() == count, "all are in")
        assert server.state()["num_waiting"] > 0
    finally:
        gone.set()
        for thread in threads:
            thread.join()
    wait_until(lambda: server.live_requests() == 0, "all are gone")
    state = server.state()
    assert state["kv_usage"] == 0
    assert sum(counts["aborted"] for counts in state["classes"].values()) == before + count
    assert server.complete(prompt="hello")["usage"]["completion_tokens"] == 8


def test_metrics_and_step_log_tell_of_the_requests(server: Server) -> None:
    met = server.state()["classes"]["background"]["met"]
    server.complete(prompt="hello", vllm_xargs={"niyama_class": "background"})
    wanted = 'niyama_requests_total{engine="0",model_name="demo",outcome="met",qos_class="background"} '
    wait_until(lambda: f"{wanted}{met + 1:.1f}" in server.http.get("/metrics").text, "the metric has grown")
    check_step_log(read_step_log(server.step_log_path))


def test_server_runs_as_its_own_process(server: Server) -> None:
    assert server.process.pid != os.getpid()
    assert server.http.get("/v1/models").json()["data"][0]["id"] == "demo"
