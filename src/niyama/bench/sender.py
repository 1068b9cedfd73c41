"""One request over HTTP: sent, its stream read to the end, its record filled in."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from niyama.bench.carriers import Carry
from niyama.bench.planned import Planned
from niyama.bench.records import Record
from niyama.bench.stream import AnswerStream
from niyama.bench.target import Target, error_text
from niyama.wording import one_line

if TYPE_CHECKING:
    from aiohttp import ClientSession

CONNECT_LIMIT_S = 60.0
"""A connection that is not made within this time has failed."""

IDLE_CONNECTION_S = 2.0
"""Connections are used again only within this time: servers close idle ones (uvicorn after 5 s), and a
request that crosses the closing is lost."""


class ClientError(RuntimeError):
    """The client cannot run; the text is one line."""


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
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S),
    )


@dataclass(slots=True)
class Call:
    """A request, ready to be sent."""

    record: Record
    body: bytes
    headers: Mapping[str, str]
    leave_after_s: float | None


class Sender:
    """Sends requests to one server and reads their answers; all instants are since `begin`."""

    def __init__(
        self,
        session: ClientSession,
        target: Target,
        carry: Carry,
        *,
        carrier: str = "none",
        run_id: str = "run",
        answer_limit_s: float = 3600.0,
    ) -> None:
        """Take what all requests have in common; see `run`."""
        self._session = session
        self._target = target
        self._url = target.url + target.path
        self._carry = carry
        self._carrier = carrier
        self._run_id = run_id
        self._answer_limit_s = answer_limit_s
        self._start = time.perf_counter()
        aiohttp = importlib.import_module("aiohttp")
        # ValueError: an answer that is no HTTP can surface as one from the parser.
        self._failures: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, ValueError)

    def begin(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def now_s(self) -> float:
        """Return the time since `begin`, seconds."""
        return time.perf_counter() - self._start

    def prepare(self, request: Planned, prompt: object) -> Call:
        """Return a request with its body encoded."""
        carried = self._carry(request)
        body = {**self._target.body(prompt, request.num_output_tokens), **carried.body}
        if self._target.vllm_version is not None:
            # An earlier run with the same seed had the same prompts; its cached prefixes are not ours.
            body["cache_salt"] = self._run_id
        body |= request.extra
        record = Record(
            id=request.id,
            qos_class=request.qos_class,
            tenant=request.tenant,
            importance=request.importance,
            carrier=self._carrier,
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
        return Call(record, data, headers, request.leave_after_s)

    async def send(self, call: Call) -> None:
        """Send a request now, read its answer to the end, and fill in its record."""
        record = call.record
        stream = AnswerStream(is_counted=self._target.is_counted)
        record.token_at = stream.token_at  # the same list: whoever looks on sees what has come
        limit_s = self._answer_limit_s
        limit = asyncio.timeout(min(limit_s, call.leave_after_s or limit_s))
        try:
            async with limit:
                await self._exchange(call, stream)
        except self._failures as error:
            # Not every TimeoutError is ours: aiohttp's, of a connection that was not made, is one too.
            if not (isinstance(error, TimeoutError) and limit.expired()):
                record.error = one_line(f"{type(error).__name__}: {error}")[:300]
            elif call.leave_after_s is not None and call.leave_after_s <= limit_s:
                record.has_left = True
            else:
                record.error = f"no end of the answer within {limit_s:g} s"
        record.finished_at = self.now_s()
        record.num_prompt_tokens_served = stream.num_prompt_tokens
        if stream.token_at:
            record.num_output_tokens_served = stream.num_output_tokens or len(stream.token_at)

    async def _exchange(self, call: Call, stream: AnswerStream) -> None:
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
