"""How answers and runs end that do not end well, or not at all."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest
from tests.unit.bench.flying import SLACK, fly, planned
from tests.unit.bench.sseserver import Reply, answer_fully, sse_server

from niyama.bench.carriers import make_carrier
from niyama.bench.client import Rules, run_async
from niyama.bench.records import Record
from niyama.bench.score import client_figures
from niyama.bench.sender import Sender, open_session
from niyama.bench.target import Target
from niyama.qos import paper_book


async def refuse(reply: Reply) -> None:
    await reply.refuse(400, {"error": {"message": "no such\n thing"}})


async def fail(reply: Reply) -> None:
    await reply.refuse(500, b"<h1>oops</h1>")


async def fail_midway(reply: Reply) -> None:
    await reply.send(reply.event(1))
    await reply.send(b'data: {"error": {"message": "engine died", "code": 500}}\n\ndata: [DONE]\n\n')
    await reply.end()


async def hang_up(reply: Reply) -> None:
    await reply.send(reply.event(1))
    reply.writer.transport.abort()


async def end_early(reply: Reply) -> None:
    await reply.send(reply.event(1))
    await reply.end()


async def end_empty(reply: Reply) -> None:
    await reply.send(b"data: [DONE]\n\n")
    await reply.end()


async def talk_nonsense(reply: Reply) -> None:
    reply.writer.write(b"HTTP/9 what\r\n\r\n")
    await reply.writer.drain()
    reply.writer.close()


@pytest.mark.parametrize(
    ("script", "said", "num_tokens"),
    [
        (refuse, "HTTP 400: no such thing", 0),
        (fail, "HTTP 500: <h1>oops</h1>", 0),
        (fail_midway, "engine died", 1),
        (hang_up, "Client", 1),
        (end_early, "the stream ended before the answer did", 1),
        (end_empty, "the answer has no tokens", 0),
        (talk_nonsense, "", 0),
    ],
)
def test_what_goes_wrong_is_recorded(script: object, said: str, num_tokens: int) -> None:
    with sse_server(script=script) as server:
        (record,) = fly(server, planned(1)).records
    assert record.error is not None
    assert said in record.error
    assert "\n" not in record.error
    assert not record.is_whole
    assert len(record.token_at) == num_tokens
    assert record.finished_at is not None


def test_no_answer_in_time_is_an_error() -> None:
    async def script(reply: Reply) -> None:
        await reply.send(reply.event(1))
        await asyncio.sleep(600)

    with sse_server(script=script) as server:
        (record,) = fly(server, planned(1), rules=replace(SLACK, answer_limit_s=0.3)).records
    assert record.error == "no end of the answer within 0.3 s"
    assert len(record.token_at) == 1


@pytest.mark.parametrize("leave_after_s", [None, 20.0])
def test_a_connection_that_cannot_be_made_has_failed(
    leave_after_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("niyama.bench.sender.CONNECT_LIMIT_S", 0.2)

    async def work(url: str) -> Record:
        async with open_session() as session:
            sender = Sender(session, Target(url=url, model="m"), make_carrier("none", paper_book()))
            call = sender.prepare(replace(planned(1)[0], leave_after_s=leave_after_s), "hi")
            await sender.send(call)
            return call.record

    # A full queue of connections that nobody accepts: the kernel answers no further one.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(4):
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        record = run_async(work(f"http://127.0.0.1:{full.getsockname()[1]}"))
    assert record.error is not None
    assert record.error.startswith("ConnectionTimeoutError: Connection timeout to host http://127.0.0.1")
    assert not record.has_left


def test_who_leaves_is_no_error_and_the_server_sees_it() -> None:
    gone = asyncio.Event()

    async def script(reply: Reply) -> None:
        try:
            while True:
                await reply.send(reply.event(1))
                await asyncio.sleep(0.01)
        except OSError:
            gone.set()
            raise

    with sse_server(script=script) as server:
        requests = [replace(request, leave_after_s=0.2) for request in planned(1)]
        (record,) = fly(server, requests).records
        assert record.has_left
        assert record.error is None
        assert record.token_at
        for _ in range(1000):
            if gone.is_set():
                break
            time.sleep(0.01)
        assert gone.is_set()


def test_errors_in_a_row_stop_the_run_and_it_does_not_count() -> None:
    with sse_server(script=refuse) as server:
        rules = replace(SLACK, max_consecutive_errors=3)
        flight = fly(server, planned(200, 0.01), rules=rules)
    assert 3 <= flight.num_sent < 200
    assert flight.records[-1].sent_at is None
    figures = client_figures(flight, rules)
    assert not figures["valid"]
    assert "3 errors in a row, the last: HTTP 400: no such thing" in figures["invalid_because"][0]


def test_a_settled_run_ends_at_once_and_who_waits_has_left() -> None:
    async def script(reply: Reply) -> None:
        if int(reply.headers["x-request-id"].rpartition("r")[2]) < 3:
            await answer_fully(reply)
        else:
            await asyncio.sleep(600)

    ended: list[str] = []

    def settle(record: Record, records: Sequence[Record], now_s: float) -> str | None:
        assert record in records
        assert now_s >= (record.finished_at or 0.0)
        ended.append(record.id)
        return "three" if len(ended) == 3 else None

    with sse_server(script=script) as server:
        flight = fly(server, planned(10, 0.02), settle=settle)
    assert flight.settled_by == "three"
    assert flight.num_ended == 3
    assert [record.is_whole for record in flight.records] == [True] * 3 + [False] * 7
    assert [record.has_left for record in flight.records] == [False] * 3 + [True] * 7
    assert client_figures(flight, SLACK)["valid"]


def test_tokens_of_an_answer_that_goes_on_are_seen() -> None:
    async def script(reply: Reply) -> None:
        if reply.headers["x-request-id"].endswith("r0"):
            await reply.send(reply.event(1))
            await asyncio.sleep(600)
        await answer_fully(reply)

    def settle(record: Record, records: Sequence[Record], now_s: float) -> str | None:
        return "seen" if len(records[0].token_at) == 1 and records[0].finished_at is None else None

    with sse_server(script=script) as server:
        flight = fly(server, planned(100, 0.02), settle=settle)
    assert flight.settled_by == "seen"
    assert flight.records[0].has_left


def test_errors_that_are_not_in_a_row_do_not_stop_it() -> None:
    async def script(reply: Reply) -> None:
        await (refuse if int(reply.headers["x-request-id"].rpartition("r")[2]) % 2 else answer_fully)(reply)

    with sse_server(script=script) as server:
        flight = fly(server, planned(20, 0.02), rules=replace(SLACK, max_consecutive_errors=8))
    assert flight.stopped_by is None
    assert flight.num_errors == 10


def test_a_server_that_dies_after_the_last_request_was_sent_is_seen() -> None:
    with sse_server(script=refuse) as server:
        rules = replace(SLACK, max_consecutive_errors=3)
        flight = fly(server, planned(3), rules=rules)
    assert flight.num_sent == 3
    figures = client_figures(flight, rules)
    assert figures["invalid_because"] == [
        "stopped after 3 errors in a row, the last: HTTP 400: no such thing"
    ]


def test_an_answer_has_an_hour_or_four_times_the_longest_promise() -> None:
    assert Rules().for_promises(None).answer_limit_s == 3600
    assert Rules().for_promises(600.0).answer_limit_s == 3600
    assert Rules().for_promises(8 * 3600.0).answer_limit_s == 32 * 3600
    assert Rules(answer_limit_s=5.0).for_promises(8 * 3600.0).answer_limit_s == 5
