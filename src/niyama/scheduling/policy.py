"""The seam: what a policy is told, what it decides, and what it is told of the result.

A host (the vLLM scheduler, the simulator) runs each engine step as

    plan = policy.plan(now_s, limits)     # who runs, how many tokens each
    policy.begin(launch)                  # what the host could realise of the plan
    policy.observe(outcome)               # when the step's tokens came out

With async scheduling a second step is planned and begun before the first is observed:
`begin` therefore advances every count, and `plan` is called with the instant at which the
step will start. Observations come in the order of the launches.

Plans and launches are sparse: every decoding request gets one token unless it is named in
`stalled`, so a step costs nothing per decoding request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from niyama.compiled import mypyc_attr
from niyama.qos import Importance, Slo
from niyama.scheduling.limits import Limits


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Request:
    """What a policy may know of a request when it arrives; there is no output length here (L8).

    Attributes:
        arrived_at: Instant of arrival, seconds on the host's clock.
        num_prompt_tokens: Prompt length, >= 1.
        num_cached_tokens: Leading prompt tokens whose KV is cached already; not work.
        max_tokens: The client's bound on the output, >= 1.
        priority: vLLM's priority, smaller is more important; breaks ties of importance.
        expected_output_tokens: The client's own guess of the output length, if it gave one.
        tenant_weight: What the tenant is owed, in relation to the others, > 0.
    """

    request_id: str
    arrived_at: float
    slo: Slo
    num_prompt_tokens: int
    max_tokens: int
    qos_class: str = "default"
    tenant: str = ""
    importance: Importance = Importance.NORMAL
    priority: int = 0
    num_cached_tokens: int = 0
    expected_output_tokens: int | None = None
    tenant_weight: float = 1.0


class BatchShape(NamedTuple):
    """What a step's duration depends on.

    Attributes:
        num_prefill_tokens: Prompt tokens computed in the step.
        num_decode_tokens: Tokens of decoding requests (one each without speculation).
        decode_context: Sum over decodes of the tokens already in their KV.
        prefill_context: Sum over prefill chunks of the tokens computed before the chunk.
        attention_pairs: Sum over chunks of chunk * (context + chunk / 2): prefill attention work.
    """

    num_prefill_tokens: int
    num_decode_tokens: int
    decode_context: int = 0
    prefill_context: int = 0
    attention_pairs: float = 0.0

    def with_chunk(self, num_tokens: int, context: int) -> BatchShape:
        """Return the shape with one more prefill chunk that starts after `context` tokens."""
        num_prefill_tokens, num_decode_tokens, decode_context, prefill_context, pairs = self
        return BatchShape(
            num_prefill_tokens + num_tokens,
            num_decode_tokens,
            decode_context,
            prefill_context + context,
            pairs + num_tokens * (context + num_tokens / 2),
        )


class Chunk(NamedTuple):
    """Prefill tokens for one request in one step."""

    request_id: str
    num_tokens: int


class Prefill(NamedTuple):
    """A prefill chunk that runs: what the request has in KV after it, and what is left to do."""

    request_id: str
    num_tokens: int
    computed: int
    remaining: int


class Plan:
    """The next step, decided.

    Attributes:
        budget: Most tokens that the step may hold, decodes included.
        chunks: Prefill chunks, most urgent first; the sum with the decodes is within `budget`.
        shape: What the step looks like if realised in full.
        predicted_s: Predicted duration of that step.
        held: Started prefills that are passed over; their KV stays.
        stalled: Decoding requests that sit this step out.
        relegated: Requests set aside by this decision.
        restored: Requests taken back by this decision.
        slack_s: Time that the tightest decode leaves to this step; infinite when none binds.
        is_late: The step is predicted to take longer than that.
    """

    __slots__ = (
        "_spares",
        "budget",
        "chunks",
        "held",
        "is_late",
        "predicted_s",
        "relegated",
        "restored",
        "shape",
        "slack_s",
        "stalled",
    )

    def __init__(
        self,
        budget: int,
        chunks: list[Chunk],
        shape: BatchShape,
        predicted_s: float,
        *,
        spares: Iterable[str] = (),
        held: Sequence[str] = (),
        stalled: Sequence[str] = (),
        relegated: Sequence[str] = (),
        restored: Sequence[str] = (),
        slack_s: float = math.inf,
        is_late: bool = False,
    ) -> None:
        """`spares` is run through when somebody asks for them."""
        self.budget = budget
        self.chunks = chunks
        self.shape = shape
        self.predicted_s = predicted_s
        self.held = held
        self.stalled = stalled
        self.relegated = relegated
        self.restored = restored
        self.slack_s = slack_s
        self.is_late = is_late
        self._spares = spares

    @property
    def spares(self) -> list[str]:
        """Who may use tokens that the chunks leave over (a cache hit, say), in order.

        Few hosts ask, so they are looked up only then, which must be before the step is begun.
        """
        spares = list(self._spares)
        self._spares = spares
        return spares


class Launch:
    """What the host realised of a plan; from here on those tokens count as computed.

    Attributes:
        at: Instant at which the step was handed to the engine.
        prefills: The prefill chunks that really run, and how far each request has come by them.
        shape: What really runs.
        stalled: Decoding requests that get no token in this step.
        preempted: Requests whose KV the engine took; they are to be computed anew.
    """

    __slots__ = ("at", "preempted", "prefills", "shape", "stalled")

    def __init__(
        self,
        at: float,
        prefills: Sequence[Prefill],
        shape: BatchShape,
        stalled: Sequence[str] = (),
        preempted: Sequence[str] = (),
    ) -> None:
        self.at = at
        self.prefills = prefills
        self.shape = shape
        self.stalled = stalled
        self.preempted = preempted


NO_EXTRA: Mapping[str, int] = MappingProxyType({})
"""Every decoding request emitted one token."""


class StepOutcome:
    """How a launched step ended.

    Attributes:
        launch: The step, as it was begun.
        started_at: Instant from which the engine worked on this step alone.
        ended_at: Instant at which its tokens came out.
        completed: Requests whose prefill ended in this step and that emitted a token by it.
        extra_tokens: Decoding requests that emitted more or fewer than one token, and the
            difference (speculation: +n; a discarded token: -1).
        is_clean: Whether the duration tells the step's cost (no compilation, no idle gap).
        lessons: What the step-time model is to learn now instead, shapes and seconds, maybe none:
            for engines that see outputs of overlapping steps. None for this step's own duration.
    """

    __slots__ = ("completed", "ended_at", "extra_tokens", "is_clean", "launch", "lessons", "started_at")

    def __init__(
        self,
        launch: Launch,
        started_at: float,
        ended_at: float,
        completed: Sequence[str] = (),
        extra_tokens: Mapping[str, int] = NO_EXTRA,
        is_clean: bool = True,
        lessons: Sequence[tuple[BatchShape, float]] | None = None,
    ) -> None:
        self.launch = launch
        self.started_at = started_at
        self.ended_at = ended_at
        self.completed = completed
        self.extra_tokens = extra_tokens
        self.is_clean = is_clean
        self.lessons = lessons


class LatencyModel(Protocol):
    """Predicts how long a step takes."""

    def predict_s(self, shape: BatchShape) -> float:
        """Return the expected duration of a step of this shape, seconds, > 0, finite."""
        ...

    def margin_s(self, predicted_s: float) -> float:
        """Return the time to add so that few steps take longer, seconds, >= 0."""
        ...

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        """Learn from a step that ran; fitted profiles ignore it."""
        ...

    def largest_chunk(self, shape: BatchShape, context: int, limit_s: float, max_tokens: int) -> int:
        """Return the largest prefill chunk that keeps the step within `limit_s`, margin included.

        Args:
            shape: The step so far.
            context: Tokens that the chunk's request has in KV already.
            limit_s: Time for the whole step, seconds; may be infinite or negative.
            max_tokens: Upper bound on the answer.

        Returns:
            Tokens in [0, max_tokens]; grows with `limit_s` (L7).
        """
        ...

    def efficient_chunk(self, shape: BatchShape, context: int, num_tokens: int) -> int:
        """Return the chunk, 1 to `num_tokens`, whose time is best spent, if unused time is not lost.

        Arguments as for `largest_chunk`; never falls when `num_tokens`, >= 1, grows (L7).
        """
        ...

    def stats(self) -> Mapping[str, object]:
        """Return coefficients and errors, for the state page."""
        ...


class Policy(Protocol):
    """Decides every step. Deterministic; no clock, no I/O, no random numbers."""

    name: str

    def arrive(self, request: Request, now_s: float) -> None:
        """Take in a request. Raises ValueError if the id is in already."""
        ...

    def depart(self, request_id: str, now_s: float, *, finished: bool = True) -> None:
        """Forget a request that finished, or was aborted (`finished=False`); unknown ids pass."""
        ...

    def cached(self, request_id: str, num_tokens: int, now_s: float) -> None:
        """Take note that so many leading tokens of a waiting request are cached by now; others pass."""
        ...

    def plan(self, now_s: float, limits: Limits) -> Plan:
        """Decide the step that starts at `now_s`. Changes no count, so it may be called again."""
        ...

    def begin(self, launch: Launch) -> None:
        """Take note of what was started."""
        ...

    def observe(self, outcome: StepOutcome) -> None:
        """Take note of a step's end: feeds the latency model, the pacing and the estimates."""
        ...
