"""The open loop: every request is sent at its planned instant, whatever the server does.

Whoever waits for answers before sending more measures a server that is spared just when it is slow.
Here sending is one task that sleeps until the next instant; each answer is read by a task of its own.
What could still spoil a run is this process being late, so that is measured: how long after its
instant each request was sent, and how late the event loop itself comes round. A run in which
either is over a bound is not valid, and says so.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from niyama.bench.carriers import Carry
from niyama.bench.planned import Planned
from niyama.bench.records import Record
from niyama.bench.stream import AnswerStream
from niyama.bench.target import Target, error_text
from niyama.wording import one_line

if TYPE_CHECKING:
    from aiohttp import ClientSession

T = TypeVar("T")

HEARTBEAT_S = 0.02
"""How often the event loop's own lateness is sampled."""

IDLE_CONNECTION_S = 2.0
"""Connections are used again only within this time: servers close idle ones (uvicorn after 5 s), and a
request that crosses the closing is lost."""

Progress = Callable[["Flight"], None]
"""Hears of the run, ten times a second or so."""


class ClientError(RuntimeError):
    """The client cannot run; the text is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a run ends early, and when it does not count.

    Attributes:
        max_lag_s: Bound on the p99 of send lag and of loop lag, seconds.
        max_consecutive_errors: So many failures in a row stop the run; 0 for never.
        answer_limit_s: Longest time for one answer.
    """

    max_lag_s: float = 0.025
    max_consecutive_errors: int = 20
    answer_limit_s: float = 3600.0


@dataclass(slots=True)
class Flight:
    """A run in progress, and at its end.

    Attributes:
        records: One per planned request, in the order of the plan.
        num_sent: Requests sent so far.
        num_ended: Requests whose answer has ended, in success or not.
        num_tokens: Output tokens of the answers that have ended.
        loop_lags_s: How late the event loop came round, one sample per heartbeat.
        stopped_by: Why no more requests were sent; None if all were.
        wall_s: From the start to the end of the last answer.
        cpu_s: CPU time of this process over the run, all threads.
        started_at: Wall-clock start, seconds since the epoch.
        started_monotonic: The same on CLOCK_MONOTONIC.
    """

    records: list[Record]
    num_sent: int = 0
    num_ended: int = 0
    num_tokens: int = 0
    num_errors_in_a_row: int = 0
    loop_lags_s: list[float] = field(default_factory=list)
    stopped_by: str | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    started_at: float = 0.0
    started_monotonic: float = 0.0

    @property
    def send_lags_s(self) -> list[float]:
        """How long after its instant each request was sent, in the order of the plan."""
        return [r.sent_at - r.due_at for r in self.records if r.sent_at is not None]


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where it is installed."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.run(work)
    result: T = uvloop.run(work)
    return result


def open_session() -> ClientSession:
    """Return an HTTP session for load: no limit on connections, no proxy; close it after use.

    Raises:
        ClientError: aiohttp is not installed; the message says how to get it.
    """
    try:
        import aiohttp
    except ImportError:
        raise ClientError("the load client needs aiohttp: pip install 'niyama[bench]'") from None
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S)
    # A read buffer as large as any answer: reading never makes the server wait.
    return aiohttp.ClientSession(
        connector=connector,
        trust_env=False,
        read_bufsize=2**20,
        auto_decompress=False,
        skip_auto_headers=["User-Agent", "Accept-Encoding"],
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=60.0),
    )


async def run(
    session: ClientSession,
    target: Target,
    requests: Sequence[Planned],
    prompts: Mapping[str, object],
    carry: Carry,
    *,
    carrier: str = "none",
    run_id: str = "run",
    rules: Rules | None = None,
    progress: Progress | None = None,
) -> Flight:
    """Send every request at its instant and read all answers to their ends.

    Args:
        session: From `open_session`.
        target: The server.
        requests: In order of their instants.
        prompts: Of every request, by its id: token ids, text, or messages; see `niyama.bench.prompts`.
        carry: How a request asks for its class; see `niyama.bench.carriers`.
        carrier: Name of `carry`, for the records.
        run_id: Begins every `x-request-id`.
        rules: When to stop.
        progress: Called now and then.

    Returns:
        The run; nothing a server does raises.
    """
    loop = _Loop(session, target, carry, run_id, rules or Rules())
    # Everything that costs time is done before the first instant.
    calls = [loop.prepare(request, prompts[request.id], carrier) for request in requests]
    flight = Flight([call.record for call in calls])
    gc.collect()
    gc.freeze()
    try:
        await loop.fly(flight, calls, progress)
    finally:
        gc.unfreeze()
    return flight


@dataclass(slots=True)
class _Call:
    """A request, ready to be sent."""

    record: Record
    body: bytes
    headers: Mapping[str, str]
    leave_after_s: float | None


class _Loop:
    def __init__(
        self, session: ClientSession, target: Target, carry: Carry, run_id: str, rules: Rules
    ) -> None:
        self._session = session
        self._target = target
        self._url = target.url + target.path
        self._carry = carry
        self._run_id = run_id
        self._rules = rules
        self._start = 0.0
        aiohttp = importlib.import_module("aiohttp")
        # ValueError: an answer that is no HTTP can surface as one from the parser.
        self._failures: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, ValueError)

    def prepare(self, request: Planned, prompt: object, carrier: str) -> _Call:
        carried = self._carry(request)
        body = {**self._target.body(prompt, request.num_output_tokens), **carried.body, **request.extra}
        record = Record(
            id=request.id,
            qos_class=request.qos_class,
            tenant=request.tenant,
            importance=request.importance,
            carrier=carrier,
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=request.num_output_tokens,
            due_at=request.due_at,
        )
        headers = {
            **self._target.headers,
            **carried.headers,
            "content-type": "application/json",
            "x-request-id": f"{self._run_id}-{request.id}",
        }
        data = json.dumps(body, separators=(",", ":")).encode()
        return _Call(record, data, headers, request.leave_after_s)

    async def fly(self, flight: Flight, calls: Sequence[_Call], progress: Progress | None) -> None:
        heart = asyncio.create_task(_beat(flight, progress))
        cpu_began_s = time.process_time()
        flight.started_at, flight.started_monotonic = time.time(), time.monotonic()
        self._start = time.perf_counter()
        try:
            # A task group: whatever ends this run early ends every request that is under way.
            async with asyncio.TaskGroup() as group:
                await self._send_all(flight, calls, group)
        finally:
            heart.cancel()
            flight.wall_s = time.perf_counter() - self._start
            flight.cpu_s = time.process_time() - cpu_began_s
        if progress is not None:
            progress(flight)

    async def _send_all(self, flight: Flight, calls: Sequence[_Call], group: asyncio.TaskGroup) -> None:
        limit = self._rules.max_consecutive_errors
        for call in calls:
            wait_s = self._start + call.record.due_at - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if limit and flight.num_errors_in_a_row >= limit:
                last = next((r.error for r in reversed(flight.records) if r.error), "")
                flight.stopped_by = f"{limit} errors in a row, the last: {last}"
                return
            flight.num_sent += 1
            group.create_task(self._send(flight, call))

    async def _send(self, flight: Flight, call: _Call) -> None:
        record = call.record
        stream = AnswerStream(is_counted=self._target.is_counted)
        limit_s = self._rules.answer_limit_s
        try:
            async with asyncio.timeout(min(limit_s, call.leave_after_s or limit_s)):
                await self._exchange(call, stream)
        except TimeoutError:
            record.has_left = call.leave_after_s is not None and call.leave_after_s <= limit_s
            if not record.has_left:
                record.error = f"no end of the answer within {limit_s:g} s"
        except self._failures as error:
            record.error = one_line(f"{type(error).__name__}: {error}")[:300]
        record.finished_at = time.perf_counter() - self._start
        self._conclude(flight, record, stream)

    async def _exchange(self, call: _Call, stream: AnswerStream) -> None:
        record, clock, start = call.record, time.perf_counter, self._start
        body, call.body = call.body, b""  # sent once: a long run must not keep every prompt
        record.sent_at = clock() - start
        async with self._session.post(self._url, data=body, headers=call.headers) as response:
            record.status = response.status
            record.served_class = response.headers.get("x-niyama-class")
            if response.status != 200:
                record.error = f"HTTP {response.status}: {error_text(await response.read())}"
                return
            async for data in response.content.iter_any():
                stream.feed(data, clock() - start)
        record.error = stream.error
        if record.error is None and not stream.is_ended:
            record.error = "the stream ended before the answer did"
        elif record.error is None and not stream.token_at:
            record.error = "the answer has no tokens"

    def _conclude(self, flight: Flight, record: Record, stream: AnswerStream) -> None:
        record.token_at = stream.token_at
        record.num_prompt_tokens_served = stream.num_prompt_tokens
        if stream.token_at:
            record.num_output_tokens_served = stream.num_output_tokens or len(stream.token_at)
        flight.num_ended += 1
        flight.num_tokens += len(stream.token_at)
        if not record.has_left:
            flight.num_errors_in_a_row = 0 if record.error is None else flight.num_errors_in_a_row + 1


async def _beat(flight: Flight, progress: Progress | None) -> None:
    """Sample how late the loop wakes whoever sleeps; forever."""
    num_beats = 0
    while True:
        due_at = time.perf_counter() + HEARTBEAT_S
        await asyncio.sleep(HEARTBEAT_S)
        flight.loop_lags_s.append(max(0.0, time.perf_counter() - due_at))
        num_beats += 1
        if progress is not None and num_beats % 8 == 0:
            progress(flight)
