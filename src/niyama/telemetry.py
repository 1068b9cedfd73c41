"""What the scheduler tells the outside: cheap accumulators, drained over vLLM's utility RPC.

`Telemetry` lives in the engine process and is fed from the step path: a call costs O(1), a step
O(classes). The API process asks the scheduler twice a second for everything since the last time
(`Drained`) together with a snapshot (`State`), and turns both into `/metrics` and `/niyama/state`.

The contract, whatever the two processes run: ``call_utility_async("scheduler", verb)`` with verb
``"drain"`` answers a `Drain`, with verb ``"state"`` a `State`. Both are plain dicts, lists, strings
and finite numbers, so msgpack and JSON carry them unchanged.

Nothing grows without bound when nobody drains: counters are integers, samples are capped, and what
no longer fits is counted in `Drained.dropped`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, TypedDict

Outcome = Literal["met", "missed", "aborted"]
OUTCOMES: tuple[Outcome, ...] = ("met", "missed", "aborted")

MAX_SAMPLES = 2048
"""Most samples kept per stream between two drains: 4,000 steps a second at two drains a second."""

MAX_CAUSES = 32
"""Most distinct causes of a realised difference; further ones are counted as ``other``."""


class ClassEvents(TypedDict):
    """What happened to one QoS class since the last drain.

    Attributes:
        gaps: Pairs [gap_s, count]: `count` tokens came `gap_s` after the one before.
        tbt_violations: Tokens that came after they were due.
        relegated: Requests set aside.
        restored: Requests taken back.
        held: Steps, summed over requests, in which a started prefill was passed over.
        sat_out: Steps, summed over requests, that a decode sat out for an urgent prefill.
        outcomes: Requests that ended, by outcome.
        relegated_outcomes: Those of them that were relegated at least once, by outcome.
        ttft_s: Arrival to first token of requests that ended, seconds.
        ttlt_s: Arrival to last token of requests that ended, seconds.
        slack_s: Time that was left until the due time when the request ended; negative is late.
    """

    gaps: list[list[float]]
    tbt_violations: int
    relegated: int
    restored: int
    held: int
    sat_out: int
    outcomes: dict[str, int]
    relegated_outcomes: dict[str, int]
    ttft_s: list[float]
    ttlt_s: list[float]
    slack_s: list[float]


class ClassTotals(TypedDict):
    """How one class fared since the engine started.

    Attributes:
        met: Requests that finished with every promise kept.
        missed: Requests that finished late.
        aborted: Requests that the client gave up; in no attainment.
        attainment: met / (met + missed), in [0, 1]; None while no request finished.
    """

    met: int
    missed: int
    aborted: int
    attainment: float | None


class Drained(TypedDict):
    """Everything since the last drain; `totals` alone is since the start.

    Attributes:
        steps: Triples [period_s, predicted_s, chunk_tokens], one per engine step.
        classes: By class name; every class of the book, in its order.
        unknown_class: Requests that named a class that is not in the book.
        fallback: Steps left to vLLM's own order because the policy raised.
        realised: Differences between plan and realised step, by cause.
        dropped: Samples lost because nobody drained in time, or because they were not finite.
        totals: By class name, since the engine started.
    """

    steps: list[list[float]]
    classes: dict[str, ClassEvents]
    unknown_class: int
    fallback: int
    realised: dict[str, int]
    dropped: int
    totals: dict[str, ClassTotals]


class SloState(TypedDict):
    """A class's promise, seconds; None where it promises nothing."""

    ttft_s: float | None
    tbt_s: float | None
    ttlt_s: float | None


class ClassState(ClassTotals):
    """One class at this moment.

    Attributes:
        queued: Requests that have not started, the relegated ones left out.
        prefilling: Started requests without a first token that are in the current step.
        decoding: Requests that have their first token.
        held: Started prefills that the last plan passed over.
        relegated: Requests set aside now, started or not; they are in no other count.
        tightest_slack_s: Least slack among the live requests; None when nothing is due.
        slo: The promise.
        importance: ``high``, ``normal`` or ``low``.
    """

    queued: int
    prefilling: int
    decoding: int
    held: int
    relegated: int
    tightest_slack_s: float | None
    slo: SloState
    importance: str


class StepModelState(TypedDict):
    """The step-time model and how good it is.

    Attributes:
        coefficients: Name of each feature to its weight, seconds per unit.
        mean_abs_error_share: Mean absolute error as a share of the mean step time, >= 0.
        late_share: Share of steps longer than predicted plus margin, in [0, 1].
        num_steps: Steps that the two shares are taken over.
    """

    coefficients: dict[str, float]
    mean_abs_error_share: float | None
    late_share: float | None
    num_steps: int


class State(TypedDict):
    """The scheduler at this moment; `fallback_steps` and `realised` are since the start.

    Attributes:
        policy: Name of the policy.
        vllm_version: Version of the engine around it.
        step: Steps scheduled so far.
        num_running: Requests in vLLM's running list.
        num_waiting: Requests in vLLM's waiting queues.
        chunk_tokens: Prefill tokens of the last step.
        token_budget: Most tokens of the last step.
        alpha_s_per_token: Weight of remaining work against deadline in the priority.
        load: Demand over capacity as the policy estimates it, >= 0.
        kv_usage: Share of the KV blocks in use, in [0, 1].
        fallback_steps: Steps left to vLLM's own order.
        realised: Differences between plan and realised step, by cause.
        classes: By class name.
    """

    policy: str
    vllm_version: str
    step: int
    num_running: int
    num_waiting: int
    chunk_tokens: int
    token_budget: int
    alpha_s_per_token: float | None
    load: float | None
    kv_usage: float
    step_model: StepModelState
    fallback_steps: int
    realised: dict[str, int]
    classes: dict[str, ClassState]


class Drain(TypedDict):
    """The answer to the verb ``drain``."""

    state: State
    events: Drained


def finite(value: float | None) -> float | None:
    """Return the value, or None where JSON has no number for it (infinity, NaN)."""
    return value if value is not None and math.isfinite(value) else None


class Telemetry:
    """Collects what a scheduler has to tell. Not thread-safe: one engine process, one thread.

    Every method that takes a class raises KeyError for one that was not given to the constructor:
    the label set of the metrics is closed.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        """Start empty.

        Args:
            classes: Names of all QoS classes, in the order in which they are to be shown.
        """
        self._names = tuple(classes)
        self._totals = {name: dict.fromkeys(OUTCOMES, 0) for name in self._names}
        self._realised_total: dict[str, int] = {}
        self._fallback_total = 0
        self._reset()

    @property
    def fallback_total(self) -> int:
        """Steps left to vLLM's own order since the start."""
        return self._fallback_total

    @property
    def realised_total(self) -> dict[str, int]:
        """Differences between plan and realised step since the start, by cause; a copy."""
        return dict(self._realised_total)

    def totals(self, qos_class: str) -> ClassTotals:
        """Return how the class fared since the start."""
        count = self._totals[qos_class]
        ended = count["met"] + count["missed"]
        return {
            "met": count["met"],
            "missed": count["missed"],
            "aborted": count["aborted"],
            "attainment": count["met"] / ended if ended else None,
        }

    def step(self, period_s: float, predicted_s: float, chunk_tokens: int) -> None:
        """Note a finished engine step.

        Args:
            period_s: What it took, seconds, >= 0.
            predicted_s: What the plan said it would take, seconds.
            chunk_tokens: Prefill tokens in it, >= 0.
        """
        self._keep(self._steps, [period_s, predicted_s, chunk_tokens])

    def gaps(self, qos_class: str, gap_s: float, count: int) -> None:
        """Note that `count` requests of the class emitted a token `gap_s` after their last one."""
        if count > 0:
            self._keep(self._classes[qos_class]["gaps"], [gap_s, count])

    def tbt_violations(self, qos_class: str, count: int) -> None:
        """Note tokens that came after they were due."""
        self._classes[qos_class]["tbt_violations"] += count

    def relegated(self, qos_class: str) -> None:
        """Note a request that is set aside."""
        self._classes[qos_class]["relegated"] += 1

    def restored(self, qos_class: str) -> None:
        """Note a request that is taken back."""
        self._classes[qos_class]["restored"] += 1

    def held(self, qos_class: str, count: int) -> None:
        """Note started prefills that this step passes over."""
        self._classes[qos_class]["held"] += count

    def sat_out(self, qos_class: str, count: int) -> None:
        """Note decodes that sit this step out."""
        self._classes[qos_class]["sat_out"] += count

    def finished(
        self,
        qos_class: str,
        outcome: Outcome,
        ttft_s: float | None,
        ttlt_s: float | None,
        slack_s: float | None,
        was_relegated: bool,
    ) -> None:
        """Note the end of a request.

        Args:
            qos_class: Its class.
            outcome: ``met`` (every promise kept), ``missed`` or ``aborted``.
            ttft_s: Arrival to first token; None when there was none.
            ttlt_s: Arrival to last token; None when it did not finish.
            slack_s: Time left until its due time, negative is late; None when nothing was due.
            was_relegated: Whether it was ever set aside.
        """
        events = self._classes[qos_class]
        self._totals[qos_class][outcome] += 1
        events["outcomes"][outcome] += 1
        if was_relegated:
            events["relegated_outcomes"][outcome] += 1
        for samples, value_s in (
            (events["ttft_s"], ttft_s),
            (events["ttlt_s"], ttlt_s),
            (events["slack_s"], slack_s),
        ):
            if value_s is None:
                continue
            if len(samples) < MAX_SAMPLES and math.isfinite(value_s):
                samples.append(value_s)
            else:
                self._dropped += 1

    def unknown_class(self) -> None:
        """Note a request that named a class that is not in the book."""
        self._unknown_class += 1

    def fallback(self) -> None:
        """Note a step left to vLLM's own order because the policy raised."""
        self._fallback += 1
        self._fallback_total += 1

    def realised(self, cause: str, count: int) -> None:
        """Note differences between the plan and what the engine could realise of it."""
        if cause not in self._realised_total and len(self._realised_total) >= MAX_CAUSES:
            cause = "other"
        self._realised_total[cause] = self._realised_total.get(cause, 0) + count
        self._realised[cause] = self._realised.get(cause, 0) + count

    def drain(self) -> Drained:
        """Return everything since the last drain and start anew. Cost: O(classes)."""
        drained: Drained = {
            "steps": self._steps,
            "classes": self._classes,
            "unknown_class": self._unknown_class,
            "fallback": self._fallback,
            "realised": self._realised,
            "dropped": self._dropped,
            "totals": {name: self.totals(name) for name in self._names},
        }
        self._reset()
        return drained

    def _keep(self, samples: list[list[float]], sample: list[float]) -> None:
        if len(samples) < MAX_SAMPLES and all(map(math.isfinite, sample)):
            samples.append(sample)
        else:
            self._dropped += 1

    def _reset(self) -> None:
        self._steps: list[list[float]] = []
        self._classes: dict[str, ClassEvents] = {name: _no_events() for name in self._names}
        self._unknown_class = 0
        self._fallback = 0
        self._realised: dict[str, int] = {}
        self._dropped = 0


def _no_events() -> ClassEvents:
    return {
        "gaps": [],
        "tbt_violations": 0,
        "relegated": 0,
        "restored": 0,
        "held": 0,
        "sat_out": 0,
        "outcomes": dict.fromkeys(OUTCOMES, 0),
        "relegated_outcomes": dict.fromkeys(OUTCOMES, 0),
        "ttft_s": [],
        "ttlt_s": [],
        "slack_s": [],
    }
