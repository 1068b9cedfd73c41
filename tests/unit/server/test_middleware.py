from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.unit.server.asgi import BOOK, CHAT, JSON_TYPE, SSE_TYPE, Backend, post, wrapped

from niyama.server import middleware as middleware_module
from niyama.server.middleware import QosMiddleware, Receive, Scope, Send
from niyama.settings import Settings


async def test_request_that_asks_for_nothing_passes_byte_for_byte() -> None:
    backend = Backend()
    body = b'{ "messages": [],  "a": 1e999, "vllm_xargs": {"other": 1} }'
    answer = await post(backend, body)
    assert (answer.status_code, answer.content, backend.bodies) == (200, b"{}", [body])
    assert answer.headers["x-niyama-class"] == "interactive"
    assert answer.headers["x-own"] == "1"


MAPPED = [CHAT, f"{CHAT}/batch", "/v1/completions", "/v1/responses", "/v1/messages", "/invocations"]


@pytest.mark.parametrize("path", MAPPED)
async def test_class_from_a_header_reaches_the_engine_on_every_route(path: str) -> None:
    backend = Backend()
    answer = await post(backend, {"prompt": "é\ud800"}, {"x-niyama-class": "batch"}, path)
    assert backend.seen == {"prompt": "é\ud800", "vllm_xargs": {"niyama_class": "batch"}}
    lengths = [value for name, value in backend.headers if name == b"content-length"]
    assert lengths == [str(len(backend.bodies[0])).encode()]
    assert answer.headers["x-niyama-class"] == "batch"


async def test_route_under_a_root_path_is_mapped_too() -> None:
    backend = Backend()
    transport = httpx.ASGITransport(wrapped(backend), root_path="/llm")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/llm" + CHAT, json={}, headers={"x-niyama-class": "batch"})
    assert answer.headers["x-niyama-class"] == "batch"
    assert backend.seen == {"vllm_xargs": {"niyama_class": "batch"}}


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/v1/embeddings", "application/json"),
        ("/v1/messages/count_tokens", "application/json"),
        (CHAT, "text/plain"),
    ],
)
async def test_other_routes_and_types_are_left_alone(path: str, content_type: str) -> None:
    backend = Backend()
    answer = await post(backend, {}, {"x-niyama-class": "nonsense", "content-type": content_type}, path)
    assert answer.status_code == 200
    assert "x-niyama-class" not in answer.headers
    assert backend.bodies == [b"{}"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
)
async def test_body_that_is_no_object_is_left_to_vllm(body: bytes) -> None:
    backend = Backend(status=400)
    answer = await post(backend, body, {"x-niyama-class": "batch"})
    assert (answer.status_code, backend.bodies) == (400, [body])


@pytest.mark.parametrize(
    ("headers", "body", "status", "param", "code"),
    [
        ({"x-niyama-class": "gold"}, {}, 400, "x-niyama-class", "invalid_qos_class"),
        ({"x-niyama-ttlt-ms": "soon"}, {}, 400, "x-niyama-ttlt-ms", "invalid_slo"),
        ({}, {"service_tier": "gold"}, 400, "service_tier", "invalid_service_tier"),
        ({}, {"vllm_xargs": 1}, 400, "vllm_xargs", "invalid_qos_class"),
        (
            {"x-niyama-tenant": "globex"},
            {"vllm_xargs": {"niyama_tenant": "acme"}},
            403,
            "vllm_xargs.niyama_tenant",
            "tenant_not_allowed",
        ),
        (
            {"x-llm-d-inference-fairness-id": "acme", "x-niyama-class": "batch"},
            {},
            403,
            "x-niyama-class",
            "class_not_allowed",
        ),
    ],
)
async def test_bad_ask_is_answered_with_an_error_object(
    headers: dict[str, str], body: object, status: int, param: str, code: str
) -> None:
    backend = Backend()
    answer = await post(backend, body, headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"], backend.bodies) == (param, code, [])
    assert (await post(backend, {})).status_code == 200


@pytest.mark.parametrize("path", MAPPED)
async def test_key_of_ours_that_is_not_public_is_refused_on_every_route(path: str) -> None:
    backend = Backend()
    answer = await post(backend, {"vllm_xargs": {"niyama_probe": 1}}, path=path)
    assert (answer.status_code, backend.bodies) == (400, [])
    error = answer.json()["error"]
    assert error["param"] == "vllm_xargs.niyama_probe"
    assert "Unknown key 'niyama_probe'; allowed: niyama_class" in error["message"]


async def test_large_body_is_refused_whether_declared_or_not() -> None:
    async def chunks() -> Any:
        for _ in range(5):
            yield b" " * 30

    backend = Backend()
    app = wrapped(backend, max_body_bytes=100)
    assert (await post(backend, b" " * 101, app=app)).status_code == 413
    assert (await post(backend, b"{" + b" " * 98 + b"}", app=app)).status_code == 200
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post(CHAT, content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "allowed: at most 100 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "sent", "expected"),
    [
        (CHAT, {"id": "1", "service_tier": None}, {"id": "1", "service_tier": "flex"}),
        ("/v1/completions", {"id": "1"}, {"id": "1", "service_tier": "flex"}),
        (
            "/v1/responses",
            {"id": "1", "object": "response", "service_tier": "auto"},
            {"id": "1", "object": "response", "service_tier": "flex"},
        ),
        (
            "/v1/messages",
            {"type": "message", "usage": {"input_tokens": 1}},
            {"type": "message", "usage": {"input_tokens": 1, "service_tier": "batch"}},
        ),
    ],
)
@pytest.mark.parametrize("cuts", [1, 3])
async def test_tier_comes_back_in_a_json_answer(path: str, sent: object, expected: object, cuts: int) -> None:
    data = json.dumps(sent).encode()
    size = -(-len(data) // cuts)
    backend = Backend([data[at : at + size] for at in range(0, len(data), size)])
    answer = await post(backend, {"service_tier": "flex"}, path=path)
    assert answer.json() == expected
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["x-niyama-class"] == "batch"


def events(*objects: object, tail: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(item)}\n\n" for item in objects) + tail).encode()


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_tier_comes_back_in_every_chunk_of_a_stream(size: int) -> None:
    stream = b": ping\n\n" + events({"n": 1}, {"n": 2, "s": "é\n"})
    backend = Backend([stream[at : at + size] for at in range(0, len(stream), size)], SSE_TYPE)
    answer = await post(backend, {"service_tier": "fast", "stream": True})
    lines = [line for line in answer.content.split(b"\n") if line]
    assert lines[0] == b": ping"
    assert lines[-1] == b"data: [DONE]"
    assert answer.content.count(b"\n\n") == stream.count(b"\n\n")
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines[1:-1]]
    assert chunks == [{"n": 1, "service_tier": "priority"}, {"n": 2, "s": "é\n", "service_tier": "priority"}]


async def test_tier_comes_back_where_messages_and_responses_streams_have_it() -> None:
    start = {"type": "message_start", "message": {"type": "message", "usage": {"input_tokens": 1}}}
    delta = {"type": "message_delta", "usage": {"output_tokens": 2}}
    backend = Backend([events(start, delta, tail="")], SSE_TYPE)
    answer = await post(backend, {"service_tier": "flex"}, path="/v1/messages")
    first, second = (json.loads(line[6:]) for line in answer.text.split("\n") if line)
    assert first["message"]["usage"] == {"input_tokens": 1, "service_tier": "batch"}
    assert second == delta
    created = {"type": "response.created", "response": {"id": "1", "service_tier": "auto"}}
    text = {"type": "response.output_text.delta", "delta": '"response"'}
    backend = Backend([events(created, text, tail="")], SSE_TYPE)
    answer = await post(backend, {"service_tier": "flex"}, path="/v1/responses")
    first, second = (json.loads(line[6:]) for line in answer.text.split("\n") if line)
    assert first["response"] == {"id": "1", "service_tier": "flex"}
    assert second == text


async def test_stream_without_a_tier_passes_unchanged_and_at_once() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    parts = [b"data: {", b'"a":1}\n', b"\n"]
    scope: Scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"content-type", JSON_TYPE)]}
    await wrapped(Backend(parts, SSE_TYPE))(scope, receive, send)
    assert [message.get("body") for message in sent] == [None, *parts, b""]


async def test_error_answers_of_the_server_pass_unchanged() -> None:
    backend = Backend([b'{"error":"Unauthorized"}'], status=401)
    answer = await post(backend, {"service_tier": "flex"})
    assert answer.content == b'{"error":"Unauthorized"}'
    assert "x-niyama-class" not in answer.headers


async def test_responses_gets_no_tier_that_vllm_would_refuse() -> None:
    for tier, passed in (("fast", "priority"), ("standard_only", "default"), ("flex", "flex")):
        backend = Backend()
        await post(backend, {"service_tier": tier}, path="/v1/responses")
        assert backend.seen["service_tier"] == passed


async def test_client_that_leaves_while_sending_is_passed_on() -> None:
    script = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(script)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    backend = Backend()
    scope: Scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"content-type", JSON_TYPE)]}
    await wrapped(backend)(scope, receive, send)
    assert backend.disconnected


async def test_failure_in_the_mapping_is_logged_once_and_lets_requests_through(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(middleware_module, "read_carriers", broken)
    backend = Backend()
    app = wrapped(backend)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            answer = await post(backend, {"service_tier": "flex"}, app=app)
            assert answer.content == b"{}"
    assert backend.bodies == [b'{"service_tier": "flex"}'] * 3
    assert len(caplog.records) == 1
    assert "a bug" in caplog.text


async def test_settings_come_from_the_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIYAMA_SETTINGS", json.dumps(Settings(book=BOOK).to_mapping()))
    backend = Backend()
    answer = await post(backend, {}, {"x-niyama-class": "background"}, app=QosMiddleware(backend))
    assert answer.status_code == 400


async def test_settings_in_the_configuration_of_vllm_win_over_the_environment() -> None:
    config = SimpleNamespace(additional_config={"niyama": Settings(book=BOOK).to_mapping()})
    backend = Backend()
    app = QosMiddleware(backend)

    async def under_vllm(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "app": SimpleNamespace(state=SimpleNamespace(vllm_config=config))}, receive, send)

    assert (await post(backend, {}, {"x-niyama-class": "background"}, app=under_vllm)).status_code == 400
    assert (await post(backend, {}, {"x-niyama-class": "batch"}, app=under_vllm)).status_code == 200


async def test_scopes_other_than_http_pass() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*args: Any) -> Any:
        raise AssertionError

    await QosMiddleware(app, Settings(book=BOOK))({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]
