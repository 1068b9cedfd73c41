"""A server's twin: the same requests at the same instants, in virtual time.

The policy is the server's own, with a step-time model that learns as the server's does; the true
time of a step comes from the calibrated profile and its spread. Before the first request the policy
is told all that the server's was told until then (warm-up, earlier runs), so both start alike.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from niyama.bench.machinespeed import MachineSpeed
from niyama.bench.recordedrun import RecordedRun, RunError
from niyama.bench.serverlog import Seen, ServerLog
from niyama.bench.toldpolicy import ToldPolicy
from niyama.latency.calibrated import MIN_STEP_S
from niyama.latency.profilefile import Calibration, Delay, HandOn, Overheads
from niyama.latency.search import ChunkSearch
from niyama.latency.spread import NO_SPREAD, Scatter
from niyama.latency.stepfit import regime_of
from niyama.scheduling.policy import BatchShape, Policy, Request
from niyama.scheduling.recording import Recorded
from niyama.sim.live import ReplicaLimits
from niyama.sim.replica import Replica
from niyama.workload.generate import Arrival

_NOTHING = Overheads()


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as a client sends it, on the server's clock.

    Attributes:
        record_id: Whose answer it will be.
        sent_at: Instant.
        request: As the server saw it; its `arrived_at` is replaced by the twin's.
        num_output_tokens: How many it will get.
    """

    record_id: str
    sent_at: float
    request: Request
    num_output_tokens: int


@dataclass(slots=True)
class Twin:
    """What the twin did.

    Attributes:
        log: Of its engine, from the first request on.
        token_at: When the client would have had each token, by the record's id, on the server's clock.
    """

    log: ServerLog
    token_at: dict[str, list[float]]


class Clock(ChunkSearch):
    """How long steps truly take: the profile times a drawn ratio, and stalls. Ask once per step.

    Args:
        calibration: The profile, how steps scatter, and the stalls.
        rng: Of all draws.
        slowness: Returns how many times as long as usual steps take now.
    """

    def __init__(
        self, calibration: Calibration, rng: random.Random, slowness: Callable[[], float] = lambda: 1.0
    ) -> None:
        self._slowness = slowness
        self._step = calibration.step
        self._spreads = calibration.spreads
        self._stalls = calibration.stalls
        self._scatter = Scatter(rng)
        self._rng = rng

    def predict_s(self, shape: BatchShape) -> float:
        """Return this step's duration, seconds, > 0; the next call gives the next step's."""
        spread = self._spreads.get(regime_of(shape), NO_SPREAD)
        usual_s = self._step.predict_s(shape) * self._slowness()
        time_s = usual_s * self._scatter.draw(spread) + self._stalls.draw(usual_s, self._rng)
        return max(MIN_STEP_S, time_s)

    def margin_s(self, predicted_s: float) -> float:
        """Return 0: the clock is never unsure."""
        return 0.0

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        """Ignore the step: the machine does not learn."""

    def stats(self) -> dict[str, object]:
        """Return what this is."""
        return {"model": "clock"}


def requests_of(run: RecordedRun) -> list[Sent]:
    """Return the requests of a run in the order of their sending; those without a token are left out."""
    sent = [
        Sent(record.id, run.begins_at + record.sent_at, run.seen[record.id].request, len(record.token_at))
        for record in run.records
        if record.id in run.seen and record.sent_at is not None and record.token_at
    ]
    return sorted(sent, key=lambda one: (one.sent_at, one.request.request_id))


def twin_of(run: RecordedRun, calibration: Calibration, seed: int, speed: MachineSpeed | None = None) -> Twin:
    """Serve a run's requests in virtual time; the same seed gives the same bytes.

    Args:
        run: What was recorded.
        calibration: How long everything takes.
        seed: Of all draws.
        speed: Of the machine over time; None for what was calibrated.

    Raises:
        RunError: the log does not say how the server was set up, or the run cannot be simulated.
    """
    sent = requests_of(run)
    first = min((seen.taken_at for seen in run.seen.values()), default=0.0)
    told = ToldPolicy(run.name, run.calls, first)
    if told.start is None:
        raise RunError(f"{run.name}: the decision log has no start")
    engine = told.start["engine"]
    try:
        limits = ReplicaLimits(
            num_kv_tokens=engine["num_kv_tokens"],
            max_num_seqs=engine["max_num_seqs"],
            max_num_batched_tokens=engine["max_num_batched_tokens"],
            block_tokens=engine["block_tokens"],
        )
    except KeyError as error:
        raise RunError(f"{run.name}: engine: {error.args[0]}: missing in the decision log") from None
    except ValueError as error:
        raise RunError(f"{run.name}: {error}") from None
    policy, is_async = told.policy_at(first), bool(engine.get("is_async"))
    try:
        return serve(policy, sent, calibration, limits, seed, is_async=is_async, speed=speed)
    except (ValueError, RuntimeError) as error:
        raise RunError(f"{run.name}: {error}") from None


def serve(
    policy: Policy,
    sent: Sequence[Sent],
    calibration: Calibration,
    limits: ReplicaLimits,
    seed: int,
    *,
    is_async: bool = False,
    speed: MachineSpeed | None = None,
) -> Twin:
    """Serve requests, which come in order, on one engine with a calibrated clock.

    Args:
        policy: Decides.
        sent: The requests.
        calibration: How long everything takes.
        limits: What the engine can hold.
        seed: Of all draws.
        is_async: The engine plans a step when the one before begins, so a request that comes later
            is not in it.
        speed: Of the machine over time; None for what was calibrated.

    Raises:
        ValueError: a request never fits the KV cache.
        RuntimeError: the policy runs nothing though requests are in.
    """
    log = ServerLog()
    rng = random.Random(f"{seed} steps")
    clock = Clock(calibration, rng, lambda: 1.0 if speed is None else speed.slowness(engine.now_s))
    engine = Replica(Recorded(policy, log.take), clock, limits, _ignore)
    door = _Door(calibration.overheads or _NOTHING, seed)
    waiting = list(reversed(sent))
    while waiting or door.coming or engine.live:
        if not engine.live:
            upcoming = [waiting[-1].sent_at] if waiting else []
            upcoming += [door.coming[0].at] if door.coming else []
            engine.now_s = max(engine.now_s, min(upcoming))
        num_tokens = log.steps[-1].num_tokens if engine.live and log.steps else 0
        while waiting and waiting[-1].sent_at <= engine.now_s:
            door.enter(waiting.pop(), num_tokens)
        is_planned = is_async and engine.live and log.steps
        latest = log.steps[-1].started_at if is_planned else engine.now_s
        while door.coming and door.coming[0].at <= latest:
            engine.arrive(heapq.heappop(door.coming).arrival)
        if engine.live:
            engine.step()
    seen = {one.record_id: log.requests[one.request.request_id] for one in sent}
    return Twin(log, _at_client(log, seen, door.overheads.token, seed))


class _Coming(NamedTuple):
    """A request on its way to the scheduler, and when it will be there."""

    at: float
    number: int
    arrival: Arrival


class _Door:
    """The API server on the way in: requests on their way, soonest first."""

    def __init__(self, overheads: Overheads, seed: int) -> None:
        self.overheads = overheads
        self.coming: list[_Coming] = []
        self._send = Scatter(random.Random(f"{seed} send"))
        self._take = Scatter(random.Random(f"{seed} take"))
        self._num_entered = 0

    def enter(self, sent: Sent, num_tokens: int) -> None:
        """Let a request in while the engine's last step put out `num_tokens` tokens."""
        num_prompt_tokens = sent.request.num_prompt_tokens
        send, take = self.overheads.send, self.overheads.take
        arrived_at = sent.sent_at + _drawn_s(send, self._send, num_tokens, num_prompt_tokens)
        at = arrived_at + _drawn_s(take, self._take, num_tokens, num_prompt_tokens)
        self._num_entered += 1
        arrival = Arrival(replace(sent.request, arrived_at=arrived_at), sent.num_output_tokens)
        heapq.heappush(self.coming, _Coming(at, self._num_entered, arrival))


def _drawn_s(delay: Delay, scatter: Scatter, num_tokens: int, num_prompt_tokens: int) -> float:
    return delay.expected_s(num_tokens, num_prompt_tokens) * scatter.draw(delay.spread)


def _at_client(
    log: ServerLog, seen: Mapping[str, Seen], hand_on: HandOn, seed: int
) -> dict[str, list[float]]:
    """Return when each token is at its client: steps are handed on in turn, their oldest answers first."""
    idle, behind = (Scatter(random.Random(f"{seed} {name}")) for name in ("idle", "behind"))
    rng = random.Random(f"{seed} stalls")
    handed: list[tuple[float, float]] = []
    through_at, ended_at = -math.inf, log.steps[0].ended_at if log.steps else 0.0
    for step in log.steps:
        if step.ended_at < through_at:
            starts_at, lasts_s = through_at, _drawn_s(hand_on.behind, behind, step.num_tokens, 0)
        else:
            starts_at, lasts_s = step.ended_at, _drawn_s(hand_on.idle, idle, step.num_tokens, 0)
        lasts_s += hand_on.stalls.draw(step.ended_at - ended_at, rng)
        ended_at, through_at = step.ended_at, starts_at + lasts_s
        handed.append((starts_at + hand_on.first_share * lasts_s, through_at))
    num_handed = [0] * len(handed)
    token_at: dict[str, list[float]] = {}
    for name, one in sorted(seen.items(), key=lambda item: (item[1].stretches, item[0])):
        token_at[name] = []
        for number in one.steps_of_tokens():
            first_at, last_at = handed[number]
            num_others = log.steps[number].num_tokens - 1
            share = num_handed[number] / num_others if num_others else 1.0
            token_at[name].append(first_at + share * (last_at - first_at))
            num_handed[number] += 1
    return token_at


def _ignore(served: object) -> None:
    """Hear of a finished request; the log has it."""
