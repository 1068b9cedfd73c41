"""The open loop: every request is sent at its planned instant, whatever the server does.

Whoever waits for answers before sending more measures a server that is spared just when it is slow.
Here sending is one task that sleeps until the next instant; each answer is read by a task of its own.
What could still spoil a run is this process being late, so that is measured: how long after its
instant each request was sent, and how late the event loop itself comes round. A run in which
either is over a bound is not valid, and says so.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from niyama.bench.carriers import Carry
from niyama.bench.planned import Planned
from niyama.bench.records import Record
from niyama.bench.sender import Call, Sender
from niyama.bench.target import Target
from niyama.pauses import no_full_collections

if TYPE_CHECKING:
    from aiohttp import ClientSession

T = TypeVar("T")

ANSWER_LIMIT_S, ANSWER_LIMIT_SLOS = 3600.0, 4.0
"""An answer is cut off after so long, or after so many times the longest promise if that is longer."""

HEARTBEAT_S = 0.02
"""How often the event loop's own lateness is sampled."""

Progress = Callable[["Flight"], None]
"""Hears of the run, ten times a second or so."""

Settle = Callable[[Record, Sequence[Record], float], str | None]
"""Hears of every answer that ended, with all records of the run and the time since it began, seconds;
returns why the run has nothing more to show, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a run ends early, and when it does not count.

    Attributes:
        max_lag_s: Bound on the p99 of send lag and of loop lag, seconds.
        max_consecutive_errors: So many failures in a row stop the run; 0 for never.
        answer_limit_s: Longest time for one answer; None for what suits the promises.
    """

    max_lag_s: float = 0.025
    max_consecutive_errors: int = 20
    answer_limit_s: float | None = None

    def for_promises(self, longest_slo_s: float | None) -> Rules:
        """Return the rules of a run in which that is the longest TTFT or TTLT, seconds; None without any."""
        if self.answer_limit_s is not None:
            return self
        return replace(self, answer_limit_s=max(ANSWER_LIMIT_S, ANSWER_LIMIT_SLOS * (longest_slo_s or 0.0)))


@dataclass(slots=True)
class Flight:
    """A run in progress, and at its end.

    Attributes:
        records: One per planned request, in the order of the plan.
        num_sent: Requests sent so far.
        num_ended: Requests whose answer has ended, in success or not.
        num_errors: Answers that were not whole.
        num_errors_in_a_row: The same since the last whole one.
        num_tokens: Output tokens of the answers that have ended.
        loop_lags_s: How late the event loop came round, one sample per heartbeat.
        stopped_by: Why nothing more was sent, if there was anything left; None if nothing went wrong.
        settled_by: Why the run ended early with all it had to show; None if it did not.
        wall_s: From the start to the end of the last answer.
        cpu_s: CPU time of this process over the run, all threads.
        started_at: Wall-clock start, seconds since the epoch.
        started_monotonic: The same on CLOCK_MONOTONIC.
    """

    records: list[Record]
    num_sent: int = 0
    num_ended: int = 0
    num_errors: int = 0
    num_tokens: int = 0
    num_errors_in_a_row: int = 0
    loop_lags_s: list[float] = field(default_factory=list)
    stopped_by: str | None = None
    settled_by: str | None = None
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
    settle: Settle | None = None,
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
        settle: Ends the run early; whoever waits for an answer then has left.

    Returns:
        The run; nothing a server does raises.
    """
    rules = rules or Rules()
    limit_s = ANSWER_LIMIT_S if rules.answer_limit_s is None else rules.answer_limit_s
    sender = Sender(session, target, carry, carrier=carrier, run_id=run_id, answer_limit_s=limit_s)
    # Everything that costs time is done before the first instant.
    calls = [sender.prepare(request, prompts[request.id]) for request in requests]
    flight = Flight([call.record for call in calls])
    with no_full_collections():
        await _fly(sender, flight, calls, rules.max_consecutive_errors, progress, settle)
    return flight


class _Settled(Exception):
    """Ends all tasks of a run."""


async def _fly(
    sender: Sender,
    flight: Flight,
    calls: Sequence[Call],
    max_errors: int,
    progress: Progress | None,
    settle: Settle | None,
) -> None:
    heart = asyncio.create_task(beat(flight, progress))
    cpu_began_s = time.process_time()
    flight.started_at, flight.started_monotonic = time.time(), time.monotonic()
    sender.begin()
    try:
        # A task group: whatever ends this run early ends every request that is under way.
        async with asyncio.TaskGroup() as group:
            for call in calls:
                # More than once: an event loop rounds to its own ticks and may wake us early.
                while (wait_s := call.record.due_at - sender.now_s()) > 0:
                    await asyncio.sleep(wait_s)
                if flight.stopped_by is not None:
                    break
                flight.num_sent += 1
                group.create_task(_send(sender, flight, call, max_errors, settle))
    except* _Settled:
        for record in flight.records:
            record.has_left = record.has_left or record.finished_at is None
    finally:
        heart.cancel()
        flight.wall_s = sender.now_s()
        flight.cpu_s = time.process_time() - cpu_began_s
    if progress is not None:
        progress(flight)


async def _send(sender: Sender, flight: Flight, call: Call, max_errors: int, settle: Settle | None) -> None:
    await sender.send(call)
    record = call.record
    flight.num_ended += 1
    flight.num_tokens += len(record.token_at)
    if record.error is not None:
        flight.num_errors += 1
        flight.num_errors_in_a_row += 1
        # Said here, and not when the next request is due: a server may die after the last one was sent.
        if flight.num_errors_in_a_row == max_errors and flight.stopped_by is None:
            flight.stopped_by = f"{max_errors} errors in a row, the last: {record.error}"
    elif not record.has_left:
        flight.num_errors_in_a_row = 0
    if settle is not None and flight.settled_by is None:
        flight.settled_by = settle(record, flight.records, sender.now_s())
        if flight.settled_by is not None:
            raise _Settled


async def beat(flight: Flight, progress: Progress | None = None) -> None:
    """Sample how late the loop wakes whoever sleeps; forever."""
    num_beats = 0
    while True:
        due_at = time.perf_counter() + HEARTBEAT_S
        await asyncio.sleep(HEARTBEAT_S)
        flight.loop_lags_s.append(max(0.0, time.perf_counter() - due_at))
        num_beats += 1
        if progress is not None and num_beats % 8 == 0:
            progress(flight)
