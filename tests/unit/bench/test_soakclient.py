"""The clients against a server that misbehaves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from niyama.bench.soakclient import Crowd
from niyama.bench.soakshots import CHAT, COMPLETIONS, Kind, Shot

DONE = [b'data: {"choices": [{"text": "a"}]}\n\n'] * 3 + [
    b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\n',
    b"data: [DONE]\n\n",
]


def shot(kind: Kind = "served", *, streamed: bool = True, path: str = COMPLETIONS, **more: object) -> Shot:
    given: dict[str, object] = {"num_output_tokens": 3, "is_streamed": streamed, "leaves_after": 1.0, **more}
    return Shot(0.0, kind, path, b'{"model": "demo", "prompt": "hello"}', "chat", **given)  # type: ignore[arg-type]


@asynccontextmanager
async def answering(status: int = 200, events: list[bytes] | None = None) -> AsyncIterator[str]:
    """Serve one kind of answer to everything: a stream of events, or a JSON object."""
    got: list[bytes] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        got.append(await request.read())
        if events is None:
            text = json.dumps({"usage": {"completion_tokens": 3}} if status == 200 else {"error": "no"})
            return web.Response(text=text, status=status, content_type="application/json")
        stream = web.StreamResponse()
        await stream.prepare(request)
        for event in events:
            await stream.write(event)
        return stream

    app = web.Application()
    app.router.add_post(COMPLETIONS, answer)
    app.router.add_post(CHAT, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def run(one: Shot, status: int = 200, events: list[bytes] | None = None) -> Crowd:
    async with answering(status, events) as url:
        crowd = Crowd(url)
        await crowd.run([one])
    assert crowd.num_open == 0
    return crowd


async def test_answer_that_is_read_to_its_end_is_complete() -> None:
    for one, events in ((shot(), DONE), (shot(streamed=False), None)):
        crowd = await run(one, events=events)
        assert dict(crowd.ends) == {"answered": 1}
        assert (crowd.complete["chat"], crowd.num_tokens) == (1, 3)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (DONE[:3], "the stream broke off after 3 events"),
        ([*DONE[:2], b'data: {"error": {"message": "boom"}}\n\n'], "the stream broke off after 3 events"),
        ([DONE[0], b'data: {"usage": {"completion_tokens": 2}}\n\n', DONE[-1]], "2 tokens instead of 3"),
    ],
)
async def test_stream_that_is_not_whole_is_a_failure(events: list[bytes], why: str) -> None:
    crowd = await run(shot(), events=events)
    assert dict(crowd.ends) == {"failed": 1}
    assert why in crowd.failures[0]


async def test_unexpected_status_is_a_failure() -> None:
    crowd = await run(shot(), status=500)
    assert "HTTP 500 instead of (200,)" in crowd.failures[0]
    crowd = await run(shot("refused", statuses=(400, 422)))
    assert "HTTP 200 instead of (400, 422)" in crowd.failures[0]
    crowd = await run(shot("refused", statuses=(400, 422)), status=400)
    assert (dict(crowd.ends), crowd.failures) == ({"refused": 1}, [])


async def test_clients_leave_where_they_are_to() -> None:
    crowd = await run(shot("leaves_reading", num_sequences=2), events=DONE)
    assert dict(crowd.ends) == {"left_reading": 1}
    assert crowd.left_reading["chat"] == 2
    crowd = await run(shot("half_sent", leaves_after=0.01))
    assert dict(crowd.ends) == {"broke_off_sending": 1}
    assert not crowd.complete


async def test_impatient_client_that_is_served_in_time_is_complete() -> None:
    crowd = await run(shot("leaves_waiting", leaves_after=30.0), events=DONE)
    assert dict(crowd.ends) == {"answered": 1}
    crowd = await run(shot("leaves_waiting", leaves_after=0.0), events=DONE)
    assert dict(crowd.ends) == {"left_waiting": 1}
    assert crowd.left_waiting["chat"] == 1


async def test_server_that_is_gone_is_a_failure() -> None:
    async with answering() as url:
        pass
    crowd = Crowd(url)
    await crowd.run([shot()])
    assert dict(crowd.ends) == {"failed": 1}
