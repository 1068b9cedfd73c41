"""What a server sustains: the request rate at which it works through a backlog that never ends.

A closed loop keeps so many requests in flight for so long. Output tokens per second
over the workload's mean output length is the rate; the first third is not counted, because
prefills come first there. Tokens are counted as they come, so requests
that straddle the ends of the window bias nothing. Where answers may end before the length that was
asked for, the mean is that of what is served.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from niyama.bench.carriers import Carry
from niyama.bench.client import Flight, beat
from niyama.bench.planned import Plan
from niyama.bench.prompts import PromptMaker
from niyama.bench.records import Record
from niyama.bench.sender import Call, ClientError, Sender
from niyama.bench.target import Target
from niyama.pauses import no_full_collections

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
        flight: How the client itself fared, for `client_figures`; it has no records, since in a closed
            loop no request has an instant to be late for.
    """

    qps: float
    output_tps: float
    num_in_flight: int
    seconds: float
    flight: Flight


class Backlog:
    """Requests of a workload without end, the first round of which is ready to be sent."""

    def __init__(
        self,
        session: ClientSession,
        target: Target,
        plan: Plan,
        maker: PromptMaker,
        carry: Carry,
        *,
        run_id: str = "saturation",
    ) -> None:
        """Prepare every request of the plan once: making a long prompt would hold up all answers later.

        Args:
            session: From `open_session`.
            target: The server.
            plan: Requests of the workload; their instants do not matter, and they are repeated as needed.
            maker: Makes their prompts, new ones at every repeat.
            carry: How a request asks for its class.
            run_id: Begins every `x-request-id`.
        """
        self._sender = Sender(session, target, carry, run_id=run_id)
        self._plan = plan
        calls = self._endless(maker)
        self._calls = itertools.chain(list(itertools.islice(calls, len(plan.requests))), calls)
        self._flight = Flight([])
        self._sent: list[Record] = []

    async def work_off(self, *, num_in_flight: int, seconds: float) -> Saturation:
        """Keep so many requests in flight for so long; return what the server sustains. Call it once.

        Who runs nothing beside it wraps it in `no_full_collections`, as an open loop does by itself.

        Raises:
            ClientError: a request failed, or no token came in the counted time.
        """
        flight = self._flight
        heart = asyncio.create_task(beat(flight))
        cpu_began_s = time.process_time()
        self._sender.begin()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(num_in_flight):
                    group.create_task(self._keep_one_in_flight(seconds))
        except* ClientError as errors:
            raise ClientError(str(errors.exceptions[0])) from None
        finally:
            heart.cancel()
            flight.wall_s = self._sender.now_s()
            flight.cpu_s = time.process_time() - cpu_began_s
        return self._saturation(num_in_flight, seconds)

    async def _keep_one_in_flight(self, seconds: float) -> None:
        while (left_s := seconds - self._sender.now_s()) > 0:
            call = next(self._calls)
            call.leave_after_s = left_s
            self._sent.append(call.record)
            await self._sender.send(call)
            self._flight.num_tokens += len(call.record.token_at)
            if call.record.error is not None:
                raise ClientError(f"while measuring what the server sustains: {call.record.error}")

    def _saturation(self, num_in_flight: int, seconds: float) -> Saturation:
        warm_s = seconds * WARM_SHARE
        num_tokens = sum(warm_s <= at < seconds for record in self._sent for at in record.token_at)
        if not num_tokens:
            raise ClientError(f"no token came in {seconds:g} s; allowed: more time with --saturation-seconds")
        output_tps = num_tokens / (seconds - warm_s)
        qps = output_tps / self._mean_output_tokens(warm_s, seconds)
        return Saturation(qps, output_tps, num_in_flight, seconds, self._flight)

    def _mean_output_tokens(self, begin_s: float, end_s: float) -> float:
        """Return the mean length served: the planned one, times the share of it that came.

        The share is that of the answers that ended whole in the window, 1 where lengths are forced or
        nothing ended. Their own mean would be the planned one only as far as chance drew them so.
        """
        ended = [r for r in self._sent if r.is_whole and begin_s <= (r.finished_at or 0.0) < end_s]
        planned = self._plan.mean_output_tokens
        if not ended:
            return planned
        return planned * (sum(len(r.token_at) for r in ended) / sum(r.num_output_tokens for r in ended))

    def _endless(self, maker: PromptMaker) -> Iterator[Call]:
        for number in itertools.count():
            for request in self._plan.requests:
                named = replace(request, id=f"{number}-{request.id}", due_at=0.0)
                yield self._sender.prepare(named, maker.make(request.num_prompt_tokens))


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
    """Return what a server sustains of a workload; the arguments are those of `Backlog` and its method.

    Raises:
        ClientError: a request failed, or no token came in the counted time.
    """
    backlog = Backlog(session, target, plan, maker, carry, run_id=run_id)
    with no_full_collections():
        return await backlog.work_off(num_in_flight=num_in_flight, seconds=seconds)
