"""What all policies share: the pacing of decodes across launches that overlap, stall and preempt."""

from __future__ import annotations

import pytest
from tests.property.hosts import linear_model

from niyama.qos import Slo
from niyama.scheduling.baselines import FcfsPolicy
from niyama.scheduling.pacing import PACE_CAP_S, on_grid
from niyama.scheduling.policy import BatchShape, Launch, Prefill, Request, StepOutcome

SHAPE = BatchShape(0, 1)


class Answer:
    """One request whose prefill is launched at 0 and whose first token comes at 1."""

    def __init__(self, slo: Slo, expected: int = 100) -> None:
        self.policy = FcfsPolicy(linear_model(fixed_s=0.125, token_s=0.0, decode_s=0.0))
        self.policy.arrive(Request("r", 0.0, slo, 10, 1000, expected_output_tokens=expected), 0.0)
        self.first = Launch(0.0, [Prefill("r", 10, 10, 0)], BatchShape(10, 0))
        self.policy.begin(self.first)

    def emit_first(self) -> None:
        self.policy.observe(StepOutcome(self.first, 0.0, 1.0, ["r"]))

    def step(self, ended_at: float, *, extra: int = 0, stalled: bool = False) -> None:
        launch = Launch(ended_at, [], SHAPE, ["r"] if stalled else ())
        self.policy.begin(launch)
        extras = {"r": extra} if extra else {}
        self.policy.observe(StepOutcome(launch, ended_at - 0.125, ended_at, extra_tokens=extras))


def test_slack_first_token_in_flight_binds_the_next_step_by_its_pace() -> None:
    """When the token comes out is not known yet, but the one after it is due a TBT later."""
    answer = Answer(Slo(ttft_s=9.0, tbt_s=0.25))
    assert answer.policy.slack_s(0.5) == 0.25
    answer.emit_first()
    assert answer.policy.slack_s(1.0) == 0.25


def test_slack_grows_with_tokens_that_come_early() -> None:
    answer = Answer(Slo(tbt_s=0.5))
    answer.emit_first()
    answer.step(1.125)
    answer.step(1.25)
    assert answer.policy.slack_s(1.25) == pytest.approx(1 + 3 * 0.5 - 1.25)


def test_slack_speculated_tokens_earn_their_time() -> None:
    answer = Answer(Slo(tbt_s=0.5))
    answer.emit_first()
    answer.step(1.125, extra=2)
    assert answer.policy.slack_s(1.125) == pytest.approx(1 + 4 * 0.5 - 1.125)


def test_slack_stalled_step_earns_nothing() -> None:
    answer = Answer(Slo(tbt_s=0.5))
    answer.emit_first()
    answer.step(1.125, stalled=True)
    assert answer.policy.slack_s(1.125) == pytest.approx(1 + 0.5 - 1.125)


def test_slack_stalls_launched_ahead_neither_forgive_nor_blame() -> None:
    """Two steps in flight: the second stalls the answer before the first is known to be in time."""
    answer = Answer(Slo(tbt_s=0.5))
    answer.emit_first()
    launches = [Launch(1.0, [], SHAPE), Launch(1.0, [], SHAPE, ["r"])]
    for launch in launches:
        answer.policy.begin(launch)
    answer.policy.observe(StepOutcome(launches[0], 1.0, 1.25))
    assert answer.policy.slack_s(1.25) == pytest.approx(2.0 - 1.25)
    answer.policy.observe(StepOutcome(launches[1], 1.25, 1.5))
    assert answer.policy.slack_s(1.5) == pytest.approx(2.0 - 1.5)


def test_slack_answer_stalled_before_its_first_token_is_known() -> None:
    """Its second token is due 0.5 s after the first, whichever launch brings it."""
    answer = Answer(Slo(tbt_s=0.5))
    stall = Launch(0.5, [], SHAPE, ["r"])
    answer.policy.begin(stall)
    answer.emit_first()
    answer.policy.observe(StepOutcome(stall, 1.0, 1.125))
    assert answer.policy.slack_s(1.125) == pytest.approx(1.5 - 1.125)


def test_slack_discarded_token_earns_nothing() -> None:
    answer = Answer(Slo(tbt_s=0.5))
    answer.emit_first()
    answer.step(1.125, extra=-1)
    assert answer.policy.slack_s(1.125) == pytest.approx(1.5 - 1.125)


def test_slack_late_answer_starts_over() -> None:
    """What is late cannot be made up; the next token is due one pace from now."""
    answer = Answer(Slo(tbt_s=0.5))
    answer.emit_first()
    answer.step(4.0)
    assert answer.policy.slack_s(4.0) == 0.5


def test_slack_answer_longer_than_expected_is_paced_anew() -> None:
    """5 tokens were expected by 10 s. Afterwards half as many again are, and they need to hurry more."""
    answer = Answer(Slo(ttlt_s=10.0), expected=3)
    answer.emit_first()
    assert answer.policy.slack_s(1.0) == PACE_CAP_S
    for ended_at in (1.5, 9.0):
        answer.step(ended_at)
    # Three tokens are out, of now four: 1 s for one token is the cap's pace; at 9.6 s it is 0.4 s.
    assert answer.policy.slack_s(9.0) == PACE_CAP_S
    answer.step(9.6)
    assert answer.policy.slack_s(9.6) == pytest.approx(on_grid(0.4 / 2))


def test_preempted_reader_is_due_when_its_next_token_was() -> None:
    answer = Answer(Slo(ttft_s=9.0, tbt_s=0.5))
    answer.emit_first()
    answer.policy.begin(Launch(1.0, [], SHAPE, preempted=["r"]))
    job = answer.policy.ledger.jobs["r"]
    assert (job.due_at, job.remaining) == (1.5, 11)
    assert [waiting.request_id for waiting in answer.policy.in_order()] == ["r"]
    assert len(answer.policy.pacer) == 0


def test_prefill_that_is_preempted_and_ends_in_one_launch_does_not_wait_any_more() -> None:
    """vLLM takes its KV between two steps (`reset_prefix_cache`) and computes the whole prompt at once."""
    policy = FcfsPolicy(linear_model())
    policy.arrive(Request("r", 0.0, Slo(), 10, 1000), 0.0)
    policy.begin(Launch(0.0, [Prefill("r", 4, 4, 6)], BatchShape(4, 0)))
    policy.begin(Launch(0.1, [Prefill("r", 10, 10, 0)], BatchShape(10, 0), preempted=["r"]))
    assert policy.ledger.num_decoding == 1
    assert [waiting.request_id for waiting in policy.in_order()] == []


def test_depart_learns_the_length_of_finished_answers_only() -> None:
    policy = FcfsPolicy(linear_model())
    for number in range(10):
        policy.arrive(Request(f"r{number}", 0.0, Slo(), 10, 1000), 0.0)
        launch = Launch(0.0, [Prefill(f"r{number}", 10, 10, 0)], BatchShape(10, 0))
        policy.begin(launch)
        policy.observe(StepOutcome(launch, 0.0, 0.1, [f"r{number}"]))
        policy.depart(f"r{number}", 0.1, finished=number < 9)
    policy.depart("stranger", 0.1)
    assert policy.lengths.expect("default", "", 1000) == 1
