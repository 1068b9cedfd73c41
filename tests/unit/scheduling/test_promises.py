"""Verdicts; the property tests compare them with the definition on every run."""

from __future__ import annotations

import math

import pytest

from niyama.qos import Slo
from niyama.scheduling.policy import BatchShape, Launch, Prefill, Request, StepOutcome
from niyama.scheduling.promises import Promises

SHAPE = BatchShape(0, 0)


class Reader:
    """One request, judged step by step; each call is the next step and says when it ended."""

    def __init__(self, slo: Slo) -> None:
        self.promises = Promises()
        self.promises.arrive(Request("r", 0.0, slo, 10, 99))

    def step(
        self,
        at: float,
        *,
        completed: bool = False,
        stalled: bool = False,
        preempted: bool = False,
        extra: int = 0,
    ) -> int:
        prefills = [Prefill("r", 10, 10, 0)] if completed else []
        launch = Launch(at, prefills, SHAPE, ["r"] if stalled else (), ["r"] if preempted else ())
        extras = {"r": extra} if extra else {}
        outcome = StepOutcome(launch, at, at, ["r"] if completed else (), extras)
        return len(self.promises.observe(outcome))

    def verdict(self, at: float) -> str:
        verdict = self.promises.end("r", at)
        assert verdict is not None
        return verdict.outcome


@pytest.mark.parametrize(("first_at", "outcome", "slack_s"), [(2.0, "met", 0.0), (2.5, "missed", -0.5)])
def test_verdict_ttft_counts_from_arrival(first_at: float, outcome: str, slack_s: float) -> None:
    reader = Reader(Slo(ttft_s=2.0))
    reader.step(first_at, completed=True)
    verdict = reader.promises.end("r", 50.0)
    assert verdict is not None
    assert (verdict.outcome, verdict.slack_s) == (outcome, slack_s)
    assert (verdict.ttft_s, verdict.ttlt_s) == (first_at, 50.0)


def test_verdict_early_token_earns_time_for_the_next() -> None:
    reader = Reader(Slo(tbt_s=1.0))
    reader.step(5.0, completed=True)
    assert [reader.step(at) for at in (5.25, 5.5, 8.0)] == [0, 0, 0]
    assert reader.verdict(8.0) == "met"


def test_verdict_late_token_is_reported_once_and_decides() -> None:
    reader = Reader(Slo(tbt_s=1.0))
    reader.step(5.0, completed=True)
    assert [reader.step(at) for at in (6.5, 7.5, 8.0)] == [1, 0, 0]
    assert reader.verdict(8.0) == "missed"


def test_verdict_ttlt_looks_at_the_last_token_only() -> None:
    for at, outcome in ((10.0, "met"), (10.5, "missed")):
        reader = Reader(Slo(ttlt_s=10.0))
        reader.step(1.0, completed=True)
        assert reader.verdict(at) == outcome


def test_verdict_stalled_answer_falls_behind_by_a_token() -> None:
    """Token 2 is due at 6; it comes at 6.5 because a step went by without it."""
    reader = Reader(Slo(tbt_s=1.0))
    reader.step(5.0, completed=True)
    assert [reader.step(5.75, stalled=True), reader.step(6.5)] == [0, 1]


def test_verdict_stalled_right_after_the_first_token_counts_as_well() -> None:
    """With two steps in flight the stall is launched before the first token is known."""
    promises = Promises()
    promises.arrive(Request("r", 0.0, Slo(tbt_s=1.0), 10, 99))
    first = Launch(0.0, [Prefill("r", 10, 10, 0)], SHAPE)
    stall = Launch(0.0, [], SHAPE, stalled=["r"])
    promises.observe(StepOutcome(first, 0.0, 5.0, ["r"]))
    promises.observe(StepOutcome(stall, 5.0, 5.5))
    late = promises.observe(StepOutcome(Launch(5.5, [], SHAPE), 5.5, 6.25))
    assert [request.request_id for request in late] == ["r"]


def test_verdict_preempted_answer_owes_its_token_all_the_while() -> None:
    """Token 2 is due at 6; the steps that run without it do not move that."""
    reader = Reader(Slo(tbt_s=1.0))
    reader.step(5.0, completed=True)
    late = [reader.step(5.25, preempted=True), reader.step(5.5), reader.step(5.75)]
    assert late == [0, 0, 0]
    assert reader.step(6.5, completed=True) == 1
    assert reader.verdict(6.5) == "missed"


def test_verdict_preempted_answer_that_is_back_in_time_goes_on_at_its_pace() -> None:
    reader = Reader(Slo(tbt_s=1.0))
    reader.step(5.0, completed=True)
    reader.step(5.25, preempted=True)
    assert [reader.step(5.75, completed=True), reader.step(6.9), reader.step(8.1)] == [0, 0, 1]


def test_verdict_late_first_token_of_a_burst_is_late() -> None:
    """Three tokens come at 6.5; the first of them was due at 6, the last only at 8."""
    reader = Reader(Slo(tbt_s=1.0))
    reader.step(5.0, completed=True)
    assert reader.step(6.5, extra=2) == 1


def test_verdict_burst_in_time_earns_its_tokens_time() -> None:
    reader = Reader(Slo(tbt_s=1.0))
    reader.step(5.0, completed=True)
    assert [reader.step(5.5, extra=2), reader.step(8.75), reader.step(10.25)] == [0, 0, 1]


def test_verdict_nothing_promised_is_always_met() -> None:
    reader = Reader(Slo())
    reader.step(1e6, completed=True)
    verdict = reader.promises.end("r", 2e6)
    assert verdict is not None
    assert (verdict.outcome, verdict.slack_s) == ("met", math.inf)


def test_verdict_aborted_request_has_no_last_token() -> None:
    reader = Reader(Slo(ttft_s=1.0))
    verdict = reader.promises.end("r", 5.0, aborted=True)
    assert verdict is not None
    assert (verdict.outcome, verdict.ttft_s, verdict.ttlt_s) == ("aborted", None, None)
    assert reader.promises.end("r", 5.0) is None
