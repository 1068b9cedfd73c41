"""The middleware in front of an ASGI application that notes what reaches it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx

from niyama.qosfile import parse_book
from niyama.server.middleware import QosMiddleware, Receive, Scope, Send
from niyama.settings import Settings

BOOK = parse_book(
    "default: interactive\nclasses: {interactive: {ttft: 6s, tbt: 50ms}, batch: {ttlt: 10min}}\n"
    "tenants: {acme: {classes: [interactive]}}\n"
)
CHAT = "/v1/chat/completions"
JSON_TYPE = b"application/json"
SSE_TYPE = b"text/event-stream; charset=utf-8"


class Backend:
    """An ASGI application that notes what reaches it and answers with fixed parts."""

    def __init__(self, parts: Sequence[bytes] = (b"{}",), kind: bytes = JSON_TYPE, status: int = 200) -> None:
        self.parts = parts
        self.kind = kind
        self.status = status
        self.bodies: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.disconnected = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected = True
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        self.bodies.append(body)
        self.headers = scope["headers"]
        headers = [(b"content-type", self.kind), (b"x-own", b"1")]
        if self.kind == JSON_TYPE:
            headers.append((b"content-length", str(sum(map(len, self.parts))).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    @property
    def seen(self) -> Any:
        return json.loads(self.bodies[-1])


def wrapped(backend: Backend, **options: Any) -> QosMiddleware:
    return QosMiddleware(backend, Settings(book=BOOK), **options)


async def post(
    backend: Backend, body: object, headers: dict[str, str] | None = None, path: str = CHAT, **options: Any
) -> httpx.Response:
    transport = httpx.ASGITransport(options.pop("app", None) or wrapped(backend, **options))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await client.post(
            path, content=content, headers={"content-type": "application/json"} | (headers or {})
        )
