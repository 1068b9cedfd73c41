from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.unit.bench.sseserver import Reply, SseServer, answer_fully, sse_server

from niyama.bench.carriers import make_carrier
from niyama.bench.client import Flight, Progress, Rules, Settle, run, run_async
from niyama.bench.planned import Planned
from niyama.bench.records import Record
from niyama.bench.score import client_figures
from niyama.bench.sender import open_session
from niyama.bench.target import Endpoint, TargetError, find_target
from niyama.qos import paper_book

SLACK = Rules(max_lag_s=60.0)


def planned(num: int, gap_s: float = 0.0, num_output_tokens: int = 3) -> list[Planned]:
    return [
        Planned(
            id=f"r{n}",
            due_at=n * gap_s,
            num_prompt_tokens=4,
            num_output_tokens=num_output_tokens,
            qos_class="interactive",
        )
        for n in range(num)
    ]


def fly(
    server: SseServer,
    requests: Sequence[Planned],
    *,
    rules: Rules = SLACK,
    progress: Progress | None = None,
    settle: Settle | None = None,
    endpoint: Endpoint = "completions",
    key: str | None = None,
) -> Flight:
    """Send the requests and return the run; what the server saw of the probes is forgotten."""

    async def work() -> Flight:
        async with open_session() as session:
            script, server.script = server.script, answer_fully
            target = await find_target(session, server.url, model=None, endpoint=endpoint, api_key=key)
            server.script = script
            server.seen.clear()
            server.seen_headers.clear()
            prompt: object = [5, 6, 7, 8] if target.takes_token_ids else "one two three"
            if endpoint == "chat":
                prompt = [{"role": "user", "content": "one two"}]
            prompts = {request.id: prompt for request in requests}
            carry = make_carrier("xargs", paper_book())
            return await run(
                session,
                target,
                requests,
                prompts,
                carry,
                carrier="xargs",
                rules=rules,
                progress=progress,
                settle=settle,
            )

    return run_async(work())


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_every_token_is_stamped(endpoint: Endpoint) -> None:
    with sse_server() as server:
        flight = fly(server, planned(3, 0.01), endpoint=endpoint)
    for number, record in enumerate(flight.records):
        assert record.is_whole
        assert record.status == 200
        assert record.due_at == pytest.approx(0.01 * number)
        assert record.sent_at is not None
        assert record.finished_at is not None
        assert record.due_at <= record.sent_at <= record.token_at[0]
        assert record.token_at == sorted(record.token_at)
        assert record.token_at[-1] <= record.finished_at <= flight.wall_s
        assert (len(record.token_at), record.num_output_tokens_served) == (3, 3)
        assert record.served_class == "seen"
    assert (flight.num_sent, flight.num_ended, flight.num_errors, flight.num_tokens) == (3, 3, 0, 9)
    assert flight.cpu_s > 0


def test_a_server_that_answers_nobody_slows_nothing() -> None:
    """The server answers only when the last request is there; a client that waited for it would hang."""
    num = 40
    arrived = 0
    everybody = asyncio.Event()

    async def script(reply: Reply) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == num:
            everybody.set()
        await everybody.wait()
        await reply.tokens(1, 2, 3)

    with sse_server(script=script) as server:
        flight = fly(server, planned(num, 0.002), rules=replace(SLACK, answer_limit_s=60))
    assert arrived == num
    assert all(record.is_whole for record in flight.records)
    first_at = min(record.token_at[0] for record in flight.records)
    assert all(record.sent_at is not None and record.sent_at < first_at for record in flight.records)


def test_several_tokens_in_one_event_share_its_instant() -> None:
    async def script(reply: Reply) -> None:
        await reply.tokens(1, 4, 6)

    with sse_server(script=script) as server:
        (record,) = fly(server, planned(1, num_output_tokens=6)).records
    first, *rest = record.token_at
    assert rest[0] == rest[1] == rest[2] >= first
    assert rest[3] == rest[4]
    assert record.num_output_tokens_served == 6
    assert record.num_prompt_tokens_served == 4


def test_an_event_may_come_in_pieces() -> None:
    async def script(reply: Reply) -> None:
        for byte in reply.event(1) + reply.event(12) + reply.event(13, is_last=True):
            await reply.send(bytes([byte]))
        await reply.end()

    with sse_server(script=script) as server:
        (record,) = fly(server, planned(1, num_output_tokens=13)).records
    assert record.error is None
    assert len(record.token_at) == 13


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


def test_a_client_that_is_stalled_says_so() -> None:
    """Whoever blocks the event loop makes sending late; here the progress callback does."""
    rules = Rules(max_lag_s=0.05)

    def stall(flight: Flight) -> None:
        time.sleep(0.5)

    with sse_server() as server:
        flight = fly(server, planned(100, 0.01), rules=rules, progress=stall)
        assert all(record.is_whole for record in flight.records)
        figures = client_figures(flight, rules)
        assert not figures["valid"]
        assert "the client fell behind: requests were sent up to" in figures["invalid_because"][0]
        assert "bound 50 ms" in figures["invalid_because"][0]
        calm = fly(server, planned(10, 0.01))
    assert client_figures(calm, SLACK)["valid"]


def test_request_carries_its_class_and_forces_its_length() -> None:
    with sse_server() as server:
        fly(server, [replace(planned(1)[0], tenant="acme", extra={"temperature": -1})])
        (body,), (headers,) = server.seen, server.seen_headers
    assert body["vllm_xargs"] == {"niyama_class": "interactive", "niyama_tenant": "acme"}
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (3, 3, True)
    assert body["cache_salt"] == "run"
    assert body["temperature"] == -1
    assert headers["x-request-id"] == "run-r0"


def test_plain_server_gets_no_extensions_and_every_event_counts() -> None:
    async def script(reply: Reply) -> None:
        await reply.tokens(1, 2, 3)

    with sse_server(is_vllm=False, script=script) as server:
        (record,) = fly(server, planned(1)).records
        (body,) = server.seen
    assert not {"ignore_eos", "min_tokens", "cache_salt"} & set(body)
    assert body["stream_options"] == {"include_usage": True}
    assert len(record.token_at) == 3
    assert record.num_prompt_tokens_served == 4


def test_key_is_sent_and_a_missing_one_is_named() -> None:
    with sse_server(key="secret") as server:
        assert fly(server, planned(1), key="secret").num_errors == 0
        with pytest.raises(TargetError, match="HTTP 401; allowed: the server's key with --api-key"):
            fly(server, planned(1))


def test_model_that_is_not_served_is_named() -> None:
    async def work(url: str) -> None:
        async with open_session() as session:
            await find_target(session, url, model="big", endpoint="chat", api_key=None)

    with sse_server() as server, pytest.raises(TargetError, match="'big' is not served; allowed: tiny"):
        run_async(work(server.url))


def test_nobody_there_is_one_line() -> None:
    async def work() -> None:
        async with open_session() as session:
            await find_target(session, "http://127.0.0.1:9", model=None, endpoint="chat", api_key=None)

    with pytest.raises(TargetError, match=r"127\.0\.0\.1:9") as failure:
        run_async(work())
    assert "\n" not in str(failure.value)
