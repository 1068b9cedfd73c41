"""What an engine did, from its decision log: arrivals, steps, and the step that gave each token.

The calls of a simulated engine are the same (`niyama.scheduling.recording`), so everything that is
computed from a log is computed in the same way for both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from niyama.scheduling.policy import BatchShape, Launch, Request
from niyama.scheduling.recording import Call, launch_from_mapping, request_from_mapping


class Step(NamedTuple):
    """A step that ended.

    Attributes:
        shape: What ran.
        started_at: Instant from which the engine worked on it alone.
        ended_at: Instant at which its tokens came out.
        num_tokens: Output tokens that came out.
        is_clean: Whether the duration tells the step's cost.
    """

    shape: BatchShape
    started_at: float
    ended_at: float
    num_tokens: int
    is_clean: bool

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return self.ended_at - self.started_at


@dataclass(slots=True)
class Seen:
    """A request as the engine saw it.

    Attributes:
        request: With `arrived_at`, the API server's stamp.
        taken_at: When the scheduler took it in.
        stretches: First and last step of each run of steps in which it got a token; the last step
            is -1 while a run goes on.
        chunks: Prefill tokens it got, a number per chunk.
        is_relegated: Whether it was ever set aside.
        departed_at: When it was gone, or None.
    """

    request: Request
    taken_at: float
    stretches: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    chunks: list[int] = field(default_factory=list[int])
    is_relegated: bool = False
    departed_at: float | None = None

    def steps_of_tokens(self) -> Iterator[int]:
        """Yield for each output token the number of the step that gave it."""
        for first, last in self.stretches:
            yield from range(first, last + 1)


class ServerLog:
    """Gathers an engine's calls; `take` may be given to `Recorded` as it is.

    Of a log that several servers wrote to it takes the part of one (`niyama.bench.decisions.parts_of`).

    Attributes:
        start: The `start` line, None without one.
        steps: In the order of their ends.
        requests: By id.
        otherwise: For each launch that differs from its plan, when it was planned, and the causes.
    """

    def __init__(self) -> None:
        self.start: dict[str, Any] | None = None
        self.steps: list[Step] = []
        self.requests: dict[str, Seen] = {}
        self.otherwise: list[tuple[float, Mapping[str, int]]] = []
        self._planned_at = 0.0
        self._in_flight: deque[Launch] = deque()
        self._paused: set[str] = set()

    @classmethod
    def of(cls, calls: Iterable[Call]) -> ServerLog:
        """Return the log of some calls."""
        log = cls()
        for call in calls:
            log.take(call)
        return log

    def take(self, call: Call) -> None:
        """Take a call in. O(prefill chunks), nothing per decode."""
        match call["call"]:
            case "start":
                self.start = call
                self._in_flight.clear()
            case "fresh":
                self._in_flight.clear()
            case "arrive":
                request = request_from_mapping(call["request"])
                self.requests.setdefault(request.request_id, Seen(request, call["now_s"]))
            case "plan" if call["plan"] is not None:
                self._planned_at = call["now_s"]
                self._relegate(call["plan"]["relegated"])
            case "begin":
                self._begin(launch_from_mapping(call))
            case "observe" if self._in_flight:
                self._observe(self._in_flight.popleft(), call)
            case "depart":
                self._depart(call["request_id"], call["now_s"])
            case "realised":
                self.otherwise.append((self._planned_at, call["causes"]))
            case _:
                pass

    @property
    def engine(self) -> dict[str, Any]:
        """The engine's limits as its `start` has them; empty without one."""
        return {} if self.start is None else dict(self.start["engine"])

    @property
    def is_async(self) -> bool:
        """Whether a step is scheduled while another runs."""
        return bool(self.engine.get("is_async"))

    def _relegate(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if request_id in self.requests:
                self.requests[request_id].is_relegated = True

    def _begin(self, launch: Launch) -> None:
        number = len(self.steps) + len(self._in_flight)
        for request_id in (*launch.stalled, *launch.preempted):
            self._end_stretch(request_id, number - 1)
        for request_id in self._paused.difference(launch.stalled, launch.preempted):
            self.requests[request_id].stretches.append((number, -1))
        self._paused = {i for i in launch.stalled if i in self.requests and self.requests[i].stretches}
        for done in launch.prefills:
            if done.request_id in self.requests and done.num_tokens:
                self.requests[done.request_id].chunks.append(done.num_tokens)
        self._in_flight.append(launch)

    def _observe(self, launch: Launch, call: Call) -> None:
        started_at, ended_at, completed = call["started_at"], call["ended_at"], call["completed"]
        if launch.prefills and not any(done.num_tokens for done in launch.prefills):
            return  # no step: a host tells a fresh policy how far its requests are
        for request_id in completed:
            if request_id in self.requests:
                self.requests[request_id].stretches.append((len(self.steps), -1))
        num_tokens = launch.shape.num_decode_tokens + len(completed)
        self.steps.append(Step(launch.shape, started_at, ended_at, num_tokens, call["is_clean"]))

    def _depart(self, request_id: str, now_s: float) -> None:
        self._end_stretch(request_id, len(self.steps) - 1)
        self._paused.discard(request_id)
        seen = self.requests.get(request_id)
        if seen is not None:
            seen.departed_at = now_s

    def _end_stretch(self, request_id: str, last: int) -> None:
        seen = self.requests.get(request_id)
        if seen is None or not seen.stretches or seen.stretches[-1][1] >= 0:
            return
        first = seen.stretches[-1][0]
        seen.stretches[-1] = (first, max(last, first - 1))
