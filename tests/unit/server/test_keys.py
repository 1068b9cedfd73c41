"""A request without the key that vLLM asks for is left to vLLM, unread."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.server.asgi import CHAT, JSON_TYPE, Backend, wrapped

from niyama.server.keys import ApiKeys, guards
from niyama.server.middleware import Receive, Scope, Send

RIGHT = [b"Bearer one", b"bearer two", "Bearer schl\u00fcssel".encode(), b"Bearer schl\xfcssel"]
WRONG = [b"", b"one", b"Bearer", b"Bearer ", b"Bearer One", b"Basic one", b"Bearer one two", b"Bearer  one"]
AUTHENTICATION = "vllm.entrypoints.serve.middleware.authenticate"


@pytest.mark.parametrize("header", RIGHT)
def test_any_of_the_keys_opens(header: bytes) -> None:
    assert ApiKeys(["one", "two", "schl\u00fcssel"]).allow(header)


@pytest.mark.parametrize("header", WRONG)
def test_all_else_does_not_open(header: bytes) -> None:
    assert not ApiKeys(["one", None, ""]).allow(header)


def test_without_keys_everybody_may_come_in() -> None:
    assert ApiKeys([None, ""]).allow(b"")


@pytest.mark.engine
def test_keys_agree_with_vllm() -> None:
    authenticate = pytest.importorskip(AUTHENTICATION)
    headers = pytest.importorskip("starlette.datastructures").Headers
    keys = ["one", "two", "schl\u00fcssel"]
    theirs = authenticate.AuthenticationMiddleware(None, keys)
    for header in [*RIGHT, *WRONG]:
        opens = theirs.verify_token(headers(raw=[(b"authorization", header)]))
        assert ApiKeys(keys).allow(header) or not opens, header
    assert guards(CHAT)
    assert not guards("/invocations")


def test_paths_that_vllm_guards_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, AUTHENTICATION, SimpleNamespace(GUARDED_PREFIX=("/v1", "/cohere")))
    assert [guards(path) for path in (CHAT, "/cohere/v2/chat", "/invocations")] == [True, True, False]
    monkeypatch.setitem(sys.modules, AUTHENTICATION, SimpleNamespace())
    assert [guards(path) for path in (CHAT, "/cohere/v2/chat")] == [True, False]


async def num_reads(path: str, header: bytes | None, api_key: list[str] | None = None) -> int:
    """Return how often the middleware asked for a part of the body before vLLM had the request."""
    reads = 0
    read_before: list[int] = []

    async def receive() -> Any:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b'{"service_tier": "gold"}', "more_body": False}

    async def send(message: Any) -> None:
        assert message["type"].startswith("http.response")

    class Vllm(Backend):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            read_before.append(reads)
            await super().__call__(scope, receive, send)

    state = SimpleNamespace(args=SimpleNamespace(api_key=api_key))
    headers = [(b"content-type", JSON_TYPE)]
    if header is not None:
        headers.append((b"authorization", header))
    app = SimpleNamespace(state=state)
    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "app": app}
    await wrapped(Vllm([b"{}"], status=401))(scope, receive, send)
    return read_before[0] if read_before else reads


@pytest.mark.parametrize("header", [None, b"Bearer wrong", b"Basic one"])
async def test_body_without_the_key_is_not_read(header: bytes | None) -> None:
    assert await num_reads(CHAT, header, ["one"]) == 0


async def test_body_with_the_key_or_of_an_open_path_or_server_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert await num_reads(CHAT, b"Bearer one", ["one"]) == 1
    assert await num_reads("/invocations", None, ["one"]) == 1
    assert await num_reads(CHAT, None) == 1


async def test_key_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "one")
    assert await num_reads(CHAT, None) == 0
    assert await num_reads(CHAT, b"Bearer one") == 1
