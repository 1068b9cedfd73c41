"""The way back: the class in a header of the answer, the tier in its JSON.

An answer without `service_tier` passes message by message. With one, the events of a stream are
edited line by line as they come, and a JSON answer is held until it is whole, because its
length changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from niyama.server.carriers import Carried
from niyama.server.routes import Route, SseTier, with_tier

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Answer:
    """An ASGI `send` for one request, in front of the real one."""

    def __init__(self, send: Send, route: Route, carried: Carried, note_failure: Callable[[], None]) -> None:
        """Take the real `send`, what the request asked for, and whom to tell of a failure."""
        self.send = send
        self.route = route
        self.carried = carried
        self.note_failure = note_failure
        self.stream: SseTier | None = None
        self.held: Message | None = None
        self.parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        """Send one message on, changed where the class or the tier belongs."""
        kind = message["type"]
        if kind == "http.response.start":
            await self._start(message)
        elif kind == "http.response.body" and self.stream is not None:
            await self.send(self._edited(self.stream, message))
        elif kind == "http.response.body" and self.held is not None:
            await self._hold(self.held, message)
        else:
            await self.send(message)

    async def _start(self, message: Message) -> None:
        """Begin the answer; errors, a missing API key among them, are vLLM's own and stay so."""
        if message["status"] >= 400:
            await self.send(message)
            return
        headers = list(message.get("headers", ()))
        kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
        name = self.carried.ask.qos_class.name.encode()
        message = {**message, "headers": [*headers, (b"x-niyama-class", name)]}
        if self.carried.tier is not None and kind.startswith(b"text/event-stream"):
            self.stream = SseTier(self.route, self.carried.tier)
        elif self.carried.tier is not None and kind.startswith(b"application/json"):
            self.held = message
            return
        await self.send(message)

    def _edited(self, stream: SseTier, message: Message) -> Message:
        is_last = not message.get("more_body", False)
        try:
            body = stream.feed(message.get("body", b""), is_last=is_last)
        except Exception:
            self.note_failure()
            body, stream.tail = stream.tail + message.get("body", b""), b""
        return {**message, "body": body}

    async def _hold(self, start: Message, message: Message) -> None:
        self.parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(self.parts)
        try:
            body = with_tier(self.route, body, self.carried.tier or "default")
        except Exception:
            self.note_failure()
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        self.held = None
        await self.send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.send({**message, "body": body})
