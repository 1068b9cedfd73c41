"""What goes from the engine's process to the API's: plain dicts, lists, strings and finite numbers."""

from __future__ import annotations

from typing import Literal, TypedDict

Outcome = Literal["met", "missed", "aborted"]
OUTCOMES: tuple[Outcome, ...] = ("met", "missed", "aborted")


class ClassEvents(TypedDict):
    """What happened to one QoS class since the last drain.

    Attributes:
        gaps: Pairs [gap_s, count]: `count` tokens came `gap_s` after the one before.
        tbt_violations: Answers that fell behind their TBT, each once.
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
        emulated: The device whose step times the engine imitates, and how much faster; None if it computes.
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
    emulated: str | None
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
