"""What a server sustains: the request rate at which it works through a backlog that never ends.

A closed loop keeps so many requests in flight for so long. Output tokens per second
over the workload's mean output length is the rate; the first third is not counted, because
prefills come first there. Tokens are counted as they come, so requests
that straddle the ends of the window bias nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from niyama.bench.carriers import Carry
from niyama.bench.planned import Plan, Planned
from niyama.bench.prompts import PromptMaker
from niyama.bench.records import Record
from niyama.bench.sender import ClientError, Sender
from niyama.bench.target import Target

if TYPE_CHECKING:
    from aiohttp import ClientSession

WARM_SHARE = 1 / 3
"""This part of the time does not count."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """What was measured, and how.

    Attributes:
        qps: Requests per second that the server sustains.
        output_tps: Output tokens per second in the window.
        num_in_flight: Requests kept in flight.
        seconds: Length of the whole measurement, the uncounted part included.
    """

    qps: float
    output_tps: float
    num_in_flight: int
    seconds: float


async def saturate(
    session: ClientSession,
    target: Target,
    plan: Plan,
    maker: PromptMaker,
    carry: Carry,
    *,
    num_in_flight: int,
    seconds: float,
    run_id: str = "saturation",
) -> Saturation:
    """Return what a server sustains of a workload.

    Args:
        session: From `open_session`.
        target: The server.
        plan: Requests of the workload; their instants do not matter, and they are repeated as needed.
        maker: Makes their prompts, new ones at every repeat.
        carry: How a request asks for its class.
        num_in_flight: Requests kept in flight.
        seconds: For how long.
        run_id: Begins every `x-request-id`.

    Raises:
        ClientError: a request failed, or no token came in the counted time.
    """
    sender = Sender(session, target, carry, run_id=run_id)
    requests = _endless(plan.requests)
    records: list[Record] = []

    async def keep_one_in_flight() -> None:
        while (left_s := seconds - sender.now_s()) > 0:
            request = next(requests)
            call = sender.prepare(request, maker.make(request.num_prompt_tokens))
            call.leave_after_s = left_s
            records.append(call.record)
            await sender.send(call)
            if call.record.error is not None:
                raise ClientError(f"while measuring what the server sustains: {call.record.error}")

    sender.begin()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(num_in_flight):
                group.create_task(keep_one_in_flight())
    except* ClientError as errors:
        raise ClientError(str(errors.exceptions[0])) from None
    return _rate(records, plan, num_in_flight, seconds)


def _rate(records: Sequence[Record], plan: Plan, num_in_flight: int, seconds: float) -> Saturation:
    warm_s = seconds * WARM_SHARE
    num_tokens = sum(warm_s <= at < seconds for record in records for at in record.token_at)
    output_tps = num_tokens / (seconds - warm_s)
    if not num_tokens:
        raise ClientError(f"no token came in {seconds:g} s; allowed: more time with --saturation-seconds")
    return Saturation(output_tps / plan.mean_output_tokens, output_tps, num_in_flight, seconds)


def _endless(requests: Sequence[Planned]) -> Iterator[Planned]:
    for number in itertools.count():
        for request in requests:
            yield replace(request, id=f"{number}-{request.id}", due_at=0.0)
