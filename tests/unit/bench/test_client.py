from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from tests.unit.bench.flying import SLACK, fly, planned
from tests.unit.bench.sseserver import Reply, sse_server

from niyama.bench.client import Flight, Rules, run_async
from niyama.bench.score import client_figures
from niyama.bench.sender import open_session
from niyama.bench.target import Endpoint, Target, TargetError, find_book, find_target
from niyama.qos import QosBook


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


def look(url: str) -> Target:
    async def work() -> Target:
        async with open_session() as session:
            return await find_target(session, url, model=None, endpoint="completions", api_key=None)

    return run_async(work())


def ask_for_classes(url: str) -> QosBook | None:
    async def work() -> QosBook | None:
        async with open_session() as session:
            return await find_book(session, url, None)

    return run_async(work())


def test_target_names_the_policy_and_whose_step_times_are_imitated() -> None:
    with sse_server(classes=[], emulated="EMULATED step times of x, 8 times faster") as server:
        found = look(server.url)
    assert found.policy == "edf"
    assert found.to_json()["emulated"] == "EMULATED step times of x, 8 times faster"
    with sse_server(classes=[]) as server:
        assert look(server.url).to_json()["emulated"] is None


@pytest.mark.parametrize(
    "refusal", [None, (503, {"error": {"message": "Not Niyama's.", "code": "not_niyama"}}), (200, [])]
)
def test_a_server_with_another_scheduler_has_neither_policy_nor_classes(
    refusal: tuple[int, object] | None,
) -> None:
    with sse_server(refusal=refusal) as server:
        assert look(server.url).policy is None
        assert ask_for_classes(server.url) is None


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (
            (503, {"error": {"message": "The engine did not answer.", "code": "engine_unavailable"}}),
            "HTTP 503: The engine did not answer.; allowed: 200 of a server with Niyama's scheduler",
        ),
        ((502, b"<h1>oops</h1>"), "HTTP 502; allowed: 200"),
        ((503, {"error": "overloaded"}), "HTTP 503: overloaded; allowed: 200"),
        ((401, {"error": {"message": "no key"}}), "HTTP 401; allowed: the server's key with --api-key"),
    ],
)
def test_a_server_of_ours_that_cannot_answer_is_not_measured_as_another_one(
    refusal: tuple[int, object], said: str
) -> None:
    with sse_server(refusal=refusal) as server:
        for ask, page in ((look, "state"), (ask_for_classes, "classes")):
            with pytest.raises(TargetError) as failure:
                ask(server.url)
            assert str(failure.value).startswith(f"{server.url}/niyama/{page}: {said}")
