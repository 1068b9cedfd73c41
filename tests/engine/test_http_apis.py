"""A class is asked for, and answered, over every API that clients speak."""

from __future__ import annotations

from typing import Literal

import pytest
from anthropic import Anthropic
from tests.engine.httpserver import Server
from tests.engine.workload import prompt

from niyama.cli import serve

pytestmark = pytest.mark.engine

HELLO = "Tell me a short story."


@pytest.mark.parametrize(("tier", "qos_class"), [("flex", "batch"), ("priority", "interactive")])
def test_openai_chat_answers_with_the_tier_that_served(
    server: Server, tier: Literal["flex", "priority"], qos_class: str
) -> None:
    chat = server.openai.chat.completions.with_raw_response.create(
        model="demo",
        messages=[{"role": "user", "content": HELLO}],
        max_tokens=8,
        service_tier=tier,
    )
    assert chat.headers["x-niyama-class"] == qos_class
    assert chat.parse().service_tier == tier


def test_openai_chat_stream_carries_the_tier_in_its_chunks(server: Server) -> None:
    stream = server.openai.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": HELLO}],
        max_tokens=8,
        stream=True,
        service_tier="flex",
    )
    tiers = [chunk.service_tier for chunk in stream]
    assert len(tiers) > 1
    assert set(tiers) == {"flex"}


def test_openai_chat_own_slo_in_extra_body_is_served(server: Server) -> None:
    chat = server.openai.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": HELLO}],
        max_tokens=8,
        extra_body={"vllm_xargs": {"niyama_class": "batch", "niyama_ttlt_ms": 60_000}},
    )
    assert chat.usage is not None
    assert chat.usage.completion_tokens > 0


def test_openai_responses_are_served_in_the_class_asked_for(server: Server) -> None:
    before = server.state()["classes"]["batch"]["met"]
    answer = server.openai.responses.with_raw_response.create(
        model="demo", input=HELLO, max_output_tokens=8, extra_headers={"x-niyama-class": "batch"}
    )
    assert answer.headers["x-niyama-class"] == "batch"
    assert server.state()["classes"]["batch"]["met"] == before + 1


@pytest.mark.skipif(
    (serve.vllm_version() or "").startswith("0.28."), reason="vLLM 0.28 takes no vllm_xargs in messages"
)
def test_anthropic_messages_are_served_in_the_class_asked_for(server: Server) -> None:
    before = server.state()["classes"]["background"]["met"]
    client = Anthropic(base_url=str(server.http.base_url), api_key="none", max_retries=0)
    answer = client.messages.with_raw_response.create(
        model="demo",
        max_tokens=8,
        messages=[{"role": "user", "content": HELLO}],
        extra_headers={"x-niyama-class": "background"},
    )
    assert answer.headers["x-niyama-class"] == "background"
    assert server.state()["classes"]["background"]["met"] == before + 1


def test_seed_of_a_long_prompt_does_not_end_the_engine(server: Server) -> None:
    """Stock vLLM on the CPU dies of a seeded request whose prefill is split."""
    server.complete(prompt=prompt(3000, seed=21), seed=5, temperature=1.0, max_tokens=2)
    assert server.http.get("/health").status_code == 200
    assert server.complete(prompt=prompt(20, seed=22))["choices"]
