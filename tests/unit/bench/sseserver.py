"""A small HTTP server on loopback that streams what a script says; it answers OpenAI's and vLLM's routes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

TEMPLATE_TOKENS = 7
"""What the chat template adds."""


def count_words(text: str) -> int:
    """Return the tokens of a text: long words are two, and some cost one more at the start of a text."""
    words = text.split(" ")
    return sum(1 + (len(word) > 6) for word in words) + (words[0][0] in "abt")


def prompt_tokens(body: dict[str, Any]) -> int:
    if "messages" in body:
        return TEMPLATE_TOKENS + count_words(body["messages"][0]["content"])
    prompt = body["prompt"]
    return 1 + count_words(prompt) if isinstance(prompt, str) else len(prompt)


@dataclass
class Reply:
    """What a script writes to; the response head goes out with the first thing that is sent."""

    writer: asyncio.StreamWriter
    body: dict[str, Any]
    headers: dict[str, str]
    is_begun: bool = False

    async def refuse(self, status: int, body: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def send(self, data: bytes) -> None:
        """Send bytes as one chunk."""
        if not self.is_begun:
            self.is_begun = True
            head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            self.writer.write(f"{head}x-niyama-class: seen\r\n\r\n".encode())
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def event(self, num_tokens: int, *, is_last: bool = False) -> bytes:
        """Return an event after so many tokens, in the form of the endpoint."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if is_last else None}
        choice |= {"delta": {"content": " w"}} if "messages" in self.body else {"text": " w"}
        kind = "chat.completion.chunk" if "messages" in self.body else "text_completion"
        event: dict[str, Any] = {"id": "x", "object": kind, "choices": [choice]}
        options = self.body.get("stream_options") or {}
        if options.get("continuous_usage_stats"):
            event["usage"] = self.usage(num_tokens)
        return b"data: " + json.dumps(event).encode() + b"\n\n"

    def usage(self, num_tokens: int) -> dict[str, int]:
        return {"prompt_tokens": prompt_tokens(self.body), "completion_tokens": num_tokens}

    async def tokens(self, *counts: int) -> None:
        """Send events after which there are so many tokens, then the end of a good answer."""
        for count in counts:
            await self.send(self.event(count, is_last=count == counts[-1]))
        if self.body.get("stream_options"):
            total = {"id": "x", "choices": [], "usage": self.usage(counts[-1])}
            await self.send(b"data: " + json.dumps(total).encode() + b"\n\n")
        await self.send(b"data: [DONE]\n\n")
        await self.end()


Script = Callable[[Reply], Awaitable[None]]


async def answer_fully(reply: Reply) -> None:
    """Answer with as many tokens as were asked for, one an event."""
    await reply.tokens(*range(1, reply.body["max_tokens"] + 1))


@dataclass
class SseServer:
    """A running server, and what it saw.

    Attributes:
        script: How completions are answered.
        is_vllm: Whether it has `/version`, `/tokenize` and vLLM's options.
        classes: What `/niyama/classes` says; None for 404.
        emulated: What `/niyama/state` says of the device.
        refusal: Status and body of `/niyama/...`, in place of the classes; None to refuse nothing.
        key: The API key that it wants.
        seen: Bodies of the completions, in order of arrival.
        seen_headers: Their headers.
        num_left: Answers that the client left before their end.
    """

    url: str = ""
    script: Script = answer_fully
    is_vllm: bool = True
    classes: list[dict[str, Any]] | None = None
    emulated: str | None = None
    refusal: tuple[int, object] | None = None
    key: str | None = None
    metrics: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    seen_headers: list[dict[str, str]] = field(default_factory=list)
    num_left: int = 0
    handlers: set[asyncio.Task[Any] | None] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handlers.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode().split("\r\n")
                headers = {
                    k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)
                }
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                reply = Reply(writer, json.loads(data or b"{}"), headers)
                await self.route(first.split(" ")[1], reply)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, or the test is over
        finally:
            writer.transport.abort()

    async def route(self, path: str, reply: Reply) -> None:
        if self.key is not None and reply.headers.get("authorization") != f"Bearer {self.key}":
            await reply.refuse(401, {"error": {"message": "no key"}})
        elif path in ("/v1/completions", "/v1/chat/completions"):
            await self.complete(reply)
        elif path == "/v1/models":
            length = {"max_model_len": 4096} if self.is_vllm else {}
            await reply.refuse(200, {"data": [{"id": "tiny", **length}]})
        elif path == "/metrics" and self.metrics:
            await reply.refuse(200, self.metrics.encode())
        elif path.startswith("/niyama/") and self.refusal is not None:
            await reply.refuse(*self.refusal)
        elif path == "/niyama/classes" and self.classes is not None:
            await reply.refuse(200, {"classes": self.classes})
        elif path == "/niyama/state" and self.classes is not None:
            await reply.refuse(200, {"engines": {"0": {"policy": "edf", "emulated": self.emulated}}})
        elif path == "/version" and self.is_vllm:
            await reply.refuse(200, {"version": "0.32.0"})
        elif path == "/tokenize" and self.is_vllm:
            await reply.refuse(200, self.tokenize(reply.body))
        else:
            await reply.refuse(404, {"detail": "not found"})

    def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        if "messages" in body:
            return {"count": prompt_tokens(body)}
        words = body["prompt"].split(" ")
        return {"count": 1 + count_words(body["prompt"]), "tokens": [100 + n for n in range(len(words))]}

    async def complete(self, reply: Reply) -> None:
        self.seen.append(reply.body)
        self.seen_headers.append(reply.headers)
        extensions = reply.body.get("ignore_eos") or isinstance(reply.body.get("prompt"), list)
        if not self.is_vllm and extensions:
            await reply.refuse(400, {"error": {"message": "Unrecognized request argument: ignore_eos"}})
            return
        try:
            await self.script(reply)
        except OSError:
            self.num_left += 1
            raise


@contextmanager
def sse_server(**attributes: Any) -> Iterator[SseServer]:
    """Run a server in a thread of its own until the block ends."""
    server = SseServer(**attributes)
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        stop.append(lambda: loop.call_soon_threadsafe(over.set))
        ready.set()
        await over.wait()
        me = asyncio.current_task()
        # asyncio loses the socket of a connection that it is still accepting when the server closes.
        while asyncio.all_tasks() - {me} - server.handlers:
            await asyncio.sleep(0.01)
        listening.close()
        while others := asyncio.all_tasks() - {me}:
            for task in others:
                task.cancel()
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)  # transports that were closed let go of their sockets

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield server
    finally:
        if stop:
            stop[0]()
        thread.join(20)
