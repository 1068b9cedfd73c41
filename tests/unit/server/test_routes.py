"""Routes that generate and that no class reaches: an ask is refused there, not dropped."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.server.asgi import CHAT, Backend, post

from niyama.cli.serve import vllm_version
from niyama.engines.vllm.compat import parse_version

BATCH = f"{CHAT}/batch"
CHAT_PROTOCOL = "vllm.entrypoints.openai.chat_completion.protocol"
NEVER = ["/inference/v1/generate", "/generative_scoring", "/v1/systemone", "/cohere/v2/chat"]
FORMS = ["/v1/audio/transcriptions", "/v1/audio/translations"]
FORM = {"content-type": "multipart/form-data; boundary=x"}
ASKS: list[tuple[dict[str, str], dict[str, object]]] = [
    ({"x-niyama-class": "batch"}, {}),
    ({"x-niyama-ttft-ms": "9000"}, {}),
    ({"x-llm-d-inference-fairness-id": "globex"}, {}),
    ({}, {"service_tier": "flex"}),
    ({}, {"vllm_xargs": {"niyama_class": "batch"}}),
]


class OldBatch(SimpleNamespace):
    """A batch's model that knows its own fields alone."""

    @classmethod
    def model_validate(cls, body: dict[str, Any]) -> OldBatch:
        return cls(messages=body["messages"])

    def to_chat_completion_request(self, messages: object) -> Any:
        return SimpleNamespace(messages=messages, vllm_xargs=None)


@pytest.fixture(autouse=True)
def _old_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the models of a vLLM whose batches and messages carry nothing."""
    old = SimpleNamespace(AnthropicMessagesRequest=SimpleNamespace(model_fields={"model": 1}))
    monkeypatch.setitem(sys.modules, "vllm.entrypoints.anthropic.protocol", old)
    monkeypatch.setitem(sys.modules, CHAT_PROTOCOL, SimpleNamespace(BatchChatCompletionRequest=OldBatch))


@pytest.mark.parametrize("path", [*NEVER, BATCH, "/v1/messages"])
@pytest.mark.parametrize(("headers", "body"), ASKS)
async def test_ask_that_cannot_be_carried_is_refused(
    path: str, headers: dict[str, str], body: dict[str, object]
) -> None:
    backend = Backend()
    answer = await post(backend, body, headers, path)
    assert (answer.status_code, backend.bodies) == (400, [])
    message = answer.json()["error"]["message"]
    assert f"cannot carry a QoS class, SLO or tenant on {path}; allowed here: the default" in message


@pytest.mark.parametrize("path", [*NEVER, BATCH, "/v1/messages"])
@pytest.mark.parametrize("headers", [{}, {"x-niyama-class": "interactive"}])
async def test_default_class_needs_no_carrier(path: str, headers: dict[str, str]) -> None:
    backend = Backend()
    answer = await post(backend, {}, headers, path)
    assert (answer.status_code, backend.bodies) == (200, [b"{}"])
    assert answer.headers["x-niyama-class"] == "interactive"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/invocations"])
async def test_beam_search_carries_nothing(path: str) -> None:
    """vLLM computes the beams in requests of its own, which have no `extra_args`."""
    for headers, body in ASKS:
        backend = Backend()
        answer = await post(backend, {**body, "use_beam_search": True}, headers, path)
        assert (answer.status_code, backend.bodies) == (400, [])
        assert f"on {path} with use_beam_search; allowed" in answer.json()["error"]["message"]
        assert (await post(backend, {**body, "use_beam_search": False}, headers, path)).status_code == 200
    answer = await post(Backend(), {"use_beam_search": True}, {}, path)
    assert answer.headers["x-niyama-class"] == "interactive"


@pytest.mark.parametrize("path", FORMS)
async def test_form_is_not_read_but_its_headers_may_ask_for_nothing(path: str) -> None:
    backend = Backend()
    answer = await post(backend, b"--x", FORM, path)
    assert (answer.status_code, backend.bodies) == (200, [b"--x"])
    for headers, body in ASKS:
        if not body:
            answer = await post(backend, b"--x", FORM | headers, path)
            assert answer.status_code == 400
            assert f"tenant on {path}" in answer.json()["error"]["message"]
    assert backend.bodies == [b"--x"]


async def test_batch_is_mapped_where_vllm_copies_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Batch(OldBatch):
        @classmethod
        def model_validate(cls, body: dict[str, Any]) -> Batch:
            return cls(**body)

        def to_chat_completion_request(self, messages: object) -> Any:
            return SimpleNamespace(**vars(self) | {"messages": messages})

    monkeypatch.setitem(sys.modules, CHAT_PROTOCOL, SimpleNamespace(BatchChatCompletionRequest=Batch))
    backend = Backend()
    answer = await post(backend, {"service_tier": "flex"}, path=BATCH)
    assert backend.seen == {"service_tier": "flex", "vllm_xargs": {"niyama_class": "batch"}}
    assert answer.json() == {"service_tier": "flex"}


@pytest.mark.engine
async def test_batch_of_the_vllm_here_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    if parse_version(vllm_version() or "0.0") < (0, 32):
        pytest.skip("older batches were not looked at")
    monkeypatch.undo()
    assert pytest.importorskip(CHAT_PROTOCOL).BatchChatCompletionRequest
    backend = Backend()
    assert (await post(backend, {}, {"x-niyama-class": "batch"}, BATCH)).status_code == 200
    assert backend.seen == {"vllm_xargs": {"niyama_class": "batch"}}


async def test_batch_model_of_another_shape_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(BatchChatCompletionRequest=type("Other", (), {}))
    monkeypatch.setitem(sys.modules, CHAT_PROTOCOL, other)
    assert (await post(Backend(), {}, {"x-niyama-class": "batch"}, BATCH)).status_code == 400
