"""The clients of a soak: some read to the end, others leave, break off, or talk nonsense."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from niyama.bench.soakshots import Shot

ANSWER_LIMIT_S = 600.0
"""An answer that takes longer is lost."""

MAX_OPEN = 300
"""With so many clients waiting further ones do not come: the machine is slower than when it was measured."""

MAX_FAILURES_KEPT = 20


class Crowd:
    """All clients, and what became of them.

    A client's sequences are what the engine computes for it. Of those of a client that leaves, nobody
    outside can tell whether they ended before, nor, if no token had come, whether they ever began.

    Attributes:
        ends: Clients by kind and end: answered, left, refused, failed, withheld.
        complete: Sequences read to their end, by class.
        left_reading: Sequences of clients that left after the first token, by class.
        left_waiting: Sequences of clients that left before it, by class.
        num_tokens: Output tokens of the complete sequences.
        failures: What went wrong, the first ones.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.ends: Counter[str] = Counter()
        self.complete: Counter[str] = Counter()
        self.left_reading: Counter[str] = Counter()
        self.left_waiting: Counter[str] = Counter()
        self.num_tokens = 0
        self.failures: list[str] = []
        self.num_open = 0
        self.most_open = 0

    async def run(self, every: Iterable[Shot]) -> None:
        """Send every shot at its instant; return when all clients are gone."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_LIMIT_S)
        # No connection is used twice: half of these clients cut theirs.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        tasks: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(self._url, timeout=timeout, connector=connector) as session:
            start = time.monotonic()
            try:
                for shot in every:
                    await asyncio.sleep(max(0.0, start + shot.at_s - time.monotonic()))
                    if self.num_open >= MAX_OPEN:
                        self.ends["withheld"] += 1
                        continue
                    task = asyncio.create_task(self._send(session, shot))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, session: aiohttp.ClientSession, shot: Shot) -> None:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            if shot.kind == "half_sent":
                await self._send_half(shot)
            elif shot.kind == "leaves_waiting":
                await self._leave_waiting(session, shot)
            else:
                await self._ask(session, shot)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._fail(shot, f"{type(error).__name__}: {error}")
        finally:
            self.num_open -= 1

    async def _ask(self, session: aiohttp.ClientSession, shot: Shot) -> None:
        async with self._post(session, shot) as answer:
            if answer.status not in shot.statuses:
                text = (await answer.text(errors="replace"))[:200]
                self._fail(shot, f"HTTP {answer.status} instead of {shot.statuses}: {text}")
            elif shot.kind == "refused":
                await self._read_refusal(answer, shot)
            elif shot.is_streamed:
                await self._read_stream(answer, shot)
            else:
                self._complete(shot, await answer.json())

    async def _read_refusal(self, answer: aiohttp.ClientResponse, shot: Shot) -> None:
        text = await answer.text(errors="replace")
        if "error" in text:
            self.ends["refused"] += 1
        else:
            self._fail(shot, f"{shot.body[:40]!r} is refused without an error: {text[:200]}")

    async def _read_stream(self, answer: aiohttp.ClientResponse, shot: Shot) -> None:
        num_events, last = 0, b""
        async for line in answer.content:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                self._complete(shot, json.loads(last))
                return
            num_events, last = num_events + 1, line[6:]
            if b'"error"' in line[:20]:
                break
            # The first event of a chat is its role, before any token.
            if shot.kind == "leaves_reading" and num_events > shot.leaves_after + 1:
                answer.close()
                self.ends["left_reading"] += 1
                self.left_reading[shot.qos_class] += shot.num_sequences
                return
        self._fail(shot, f"the stream broke off after {num_events} events: {last[:200]!r}")

    async def _leave_waiting(self, session: aiohttp.ClientSession, shot: Shot) -> None:
        task = asyncio.create_task(self._ask(session, shot))
        _, unfinished = await asyncio.wait([task], timeout=shot.leaves_after)
        if not unfinished:
            await task  # answered sooner than the client lost patience
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        self.ends["left_waiting"] += 1
        self.left_waiting[shot.qos_class] += shot.num_sequences

    async def _send_half(self, shot: Shot) -> None:
        """Announce a body, send half of it and hang up; the engine never hears of it."""
        host = urlsplit(self._url)
        _, writer = await asyncio.open_connection(host.hostname, host.port)
        head = f"POST {shot.path} HTTP/1.1\r\nhost: {host.netloc}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(shot.body)}\r\n\r\n".encode())
        writer.write(shot.body[: len(shot.body) // 2])
        await writer.drain()
        await asyncio.sleep(min(shot.leaves_after, 0.2))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self.ends["broke_off_sending"] += 1

    def _post(self, session: aiohttp.ClientSession, shot: Shot) -> Any:
        headers = {"content-type": "application/json", **shot.headers}
        return session.post(shot.path, data=shot.body, headers=headers)

    def _complete(self, shot: Shot, answer: dict[str, Any]) -> None:
        num_tokens = (answer.get("usage") or {}).get("completion_tokens")
        if num_tokens != shot.num_output_tokens:
            self._fail(shot, f"{num_tokens} tokens instead of {shot.num_output_tokens}")
            return
        self.ends["answered"] += 1
        self.complete[shot.qos_class] += shot.num_sequences
        self.num_tokens += shot.num_output_tokens

    def _fail(self, shot: Shot, why: str) -> None:
        self.ends["failed"] += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(f"{shot.kind} at {shot.at_s:.1f} s, {shot.path}: {why}"[:400])
