"""A server that computes nothing and waits: the same for every client, however busy the machine is.

The first token comes after FIRST_S and PROMPT_TOKEN_S per prompt token, the others TOKEN_S apart, by a
schedule that a late wake-up does not shift.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

FIRST_S, PROMPT_TOKEN_S, TOKEN_S = 0.5, 0.001, 0.04


async def complete(request: web.Request) -> web.StreamResponse:
    """Stream a completion; the prompt is token ids."""
    body = await request.json()
    loop = asyncio.get_running_loop()
    due_at = loop.time() + FIRST_S + PROMPT_TOKEN_S * len(body["prompt"])
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    usage = {"prompt_tokens": len(body["prompt"])}
    for number in range(1, body["max_tokens"] + 1):
        await asyncio.sleep(max(0.0, due_at - loop.time()))
        if number == 1:
            await response.prepare(request)
        reason = "length" if number == body["max_tokens"] else None
        event = {
            "object": "text_completion",
            "choices": [{"index": 0, "text": " a", "finish_reason": reason}],
            "usage": {**usage, "completion_tokens": number},
        }
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        due_at += TOKEN_S
    total = {"choices": [], "usage": {**usage, "completion_tokens": body["max_tokens"]}}
    await response.write(b"data: " + json.dumps(total).encode() + b"\n\ndata: [DONE]\n\n")
    return response


async def tokenize(request: web.Request) -> web.Response:
    """Answer ids that are no words; nobody reads them."""
    words = (await request.json())["prompt"].split()
    return web.json_response({"count": len(words), "tokens": list(range(300, 300 + len(words)))})


async def models(request: web.Request) -> web.Response:
    """Answer the one model."""
    return web.json_response({"data": [{"id": "demo", "max_model_len": 8192}]})


@contextmanager
def waiting(port: int) -> Iterator[str]:
    """Run the server in a thread until the block ends; yield its address."""
    app = web.Application(client_max_size=2**26)
    app.add_routes([web.post("/v1/completions", complete), web.post("/tokenize", tokenize)])
    app.add_routes([web.get("/v1/models", models)])
    is_up, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        is_up.set()

    def work() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    threading.Thread(target=work, daemon=True).start()
    if not is_up.wait(20):
        raise RuntimeError("the waiting server did not start")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
