"""The artifact's rules, with numbers worked out by hand."""

from __future__ import annotations

import pytest
from tests.property.hosts import Host, linear_model

from niyama.latency import LinearProfile, get_profile
from niyama.qos import Importance, Slo
from niyama.scheduling.limits import Limits
from niyama.scheduling.paper import PREFILL_RATE, STEP_SIZES, PaperPolicy
from niyama.scheduling.policy import BatchShape, Launch, Prefill, Request, StepOutcome

LIMITS = Limits(token_budget=8192, free_seqs=256, free_kv_tokens=400_000)
A100 = "a100-80gb/llama-3-8b/tp1"


def ask(policy: PaperPolicy, request_id: str, slo: Slo, num_tokens: int, at: float = 0.0) -> None:
    policy.arrive(Request(request_id, at, slo, num_tokens, 1000, importance=Importance.LOW), at)


def test_step_sizes_are_the_artifacts() -> None:
    assert STEP_SIZES == (128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2552)


def test_order_is_deadline_plus_alpha_times_remaining_prefill() -> None:
    """6 + 0.008 * 4000 = 38 against 12 + 0.008 * 500 = 16; without alpha the deadlines decide."""
    for alpha_s, order in ((0.008, ["short", "long"]), (0.0, ["long", "short"])):
        policy = PaperPolicy(linear_model(), alpha_s_per_token=alpha_s)
        ask(policy, "long", Slo(ttft_s=6.0), 4000)
        ask(policy, "short", Slo(ttft_s=12.0), 500)
        assert [job.request_id for job in policy.in_order()] == order


def test_deadline_of_a_ttlt_leaves_time_for_15_tokens() -> None:
    """600 - 15 * 0.4; with both promises the earlier deadline counts."""
    policy = PaperPolicy(linear_model())
    ask(policy, "batch", Slo(ttlt_s=600.0), 10, at=100.0)
    ask(policy, "both", Slo(ttft_s=900.0, ttlt_s=600.0), 10, at=100.0)
    ask(policy, "interactive", Slo(ttft_s=6.0, tbt_s=0.05), 10, at=100.0)
    due = {i: job.due_at for i, job in policy.ledger.jobs.items()}
    assert due == pytest.approx({"batch": 694.0, "both": 694.0, "interactive": 106.0})


def test_relegation_is_for_who_cannot_make_it_alone_and_for_ever() -> None:
    """51000 tokens at 8500 tokens/s take 6 s; one more does not make it."""
    policy = PaperPolicy(linear_model())
    ask(policy, "just", Slo(ttft_s=6.0), 51_000)
    ask(policy, "lost", Slo(ttft_s=6.0), 51_001)
    ask(policy, "later", Slo(ttlt_s=9e5), 10)
    assert policy.plan(0.0, LIMITS).relegated == []
    policy.depart("just", 0.0)
    plan = policy.plan(0.0, LIMITS)
    assert plan.relegated == ["lost"]
    assert [job.request_id for job in policy.in_order()] == ["later", "lost"]
    assert policy.prefill_rate == PREFILL_RATE
    policy.prefill_rate *= 100
    again = policy.plan(0.0, LIMITS)
    assert (again.relegated, again.restored) == ([], [])
    assert policy.ledger.jobs["lost"].relegated


def test_started_request_is_not_relegated() -> None:
    policy = PaperPolicy(linear_model())
    ask(policy, "r", Slo(ttft_s=6.0), 50_000)
    policy.begin(Launch(0.0, [Prefill("r", 100, 100, 49_900)], BatchShape(100, 0)))
    assert policy.plan(5.0, LIMITS).relegated == []


@pytest.mark.parametrize(
    ("slack_s", "size"),
    [
        # 1.2 * predicted: 512 tokens 67.8 ms, 768 tokens 94.3 ms, 1024 tokens 123.7 ms, 2552 299.4 ms
        (-1.0, 128),
        (0.05, 256),
        (0.093, 512),
        (0.13, 1024),
        (10.0, 2552),
    ],
)
def test_step_size_is_the_largest_that_fits_the_slack(slack_s: float, size: int) -> None:
    model = get_profile(A100)
    assert isinstance(model, LinearProfile)
    policy = PaperPolicy(model)
    ask(policy, "p", Slo(ttlt_s=1800.0), 50_000)
    assert policy._step_size(BatchShape(0, 0), slack_s, LIMITS) == size
    larger = [n for n in STEP_SIZES if n > size]
    if slack_s > 0 and larger:
        assert 1.2 * model.predict_s(BatchShape(larger[0], 0)) > slack_s


@pytest.mark.parametrize("size", STEP_SIZES)
def test_step_size_each_is_taken_from_where_it_fits(size: int) -> None:
    policy = PaperPolicy(linear_model())
    ask(policy, "p", Slo(ttlt_s=1800.0), 50_000)
    slack_s = 1.2 * policy.model.predict_s(BatchShape(size, 0))
    assert policy._step_size(BatchShape(0, 0), slack_s, LIMITS) == size
    assert policy._step_size(BatchShape(0, 0), slack_s * 0.999, LIMITS) == max(
        (n for n in STEP_SIZES if n < size), default=128
    )


def test_step_size_counts_decodes_and_is_capped_when_memory_is_low() -> None:
    host = Host(PaperPolicy(linear_model()), num_blocks=100_000, token_budget=8192)
    for number in range(20):
        host.arrive(Request(f"d{number}", 0.0, Slo(ttft_s=99.0, tbt_s=0.05), 4, 99), 50)
    host.step()
    ask_at = Request("p", host.now_s, Slo(ttlt_s=1800.0), 50_000, 9)
    host.policy.arrive(ask_at, host.now_s)
    plenty = host.policy.plan(host.now_s, LIMITS)
    low = host.policy.plan(host.now_s, Limits(8192, 256, 31_999))
    assert (plenty.budget, plenty.shape.num_prefill_tokens) == (2552, 2532)
    assert low.chunks == []  # the prompt has no place, and nobody waits for it
    started = Launch(host.now_s, [Prefill("p", 100, 100, 49_900)], BatchShape(100, 20))
    host.policy.begin(started)
    low = host.policy.plan(host.now_s, Limits(8192, 256, 31_999))
    assert low.shape.num_prefill_tokens == 512 - 20


def test_decode_schedule_counts_from_the_later_of_first_token_and_deadline() -> None:
    """First token at 1 s, promised for 6: the second is due at 6.05, and being late is not forgiven."""
    policy = PaperPolicy(linear_model())
    ask(policy, "early", Slo(ttft_s=6.0, tbt_s=0.05), 10)
    launch = Launch(0.0, [Prefill("early", 10, 10, 0)], BatchShape(10, 0))
    policy.begin(launch)
    policy.observe(StepOutcome(launch, 0.0, 1.0, ["early"]))
    assert policy.slack_s(1.0) == pytest.approx(5.05)
    step = Launch(1.0, [], BatchShape(0, 1))
    policy.begin(step)
    policy.observe(StepOutcome(step, 1.0, 7.0))
    assert policy.slack_s(7.0) == pytest.approx(6.10 - 7.0)


@pytest.mark.parametrize(("slo", "due_at"), [(Slo(ttft_s=6.0, tbt_s=0.05), 1.05), (Slo(ttlt_s=600.0), 594.4)])
def test_strict_anchor_counts_a_promised_pace_from_the_first_token(slo: Slo, due_at: float) -> None:
    policy = PaperPolicy(linear_model(), "strict")
    ask(policy, "r", slo, 10)
    launch = Launch(0.0, [Prefill("r", 10, 10, 0)], BatchShape(10, 0))
    policy.begin(launch)
    policy.observe(StepOutcome(launch, 0.0, 1.0, ["r"]))
    assert policy.slack_s(1.0) == pytest.approx(due_at - 1.0)


def test_decode_pace_of_a_ttlt_class_is_400_ms() -> None:
    policy = PaperPolicy(linear_model())
    ask(policy, "batch", Slo(ttlt_s=600.0), 10)
    launch = Launch(0.0, [Prefill("batch", 10, 10, 0)], BatchShape(10, 0))
    policy.begin(launch)
    policy.observe(StepOutcome(launch, 0.0, 1.0, ["batch"]))
    assert policy.slack_s(1.0) == pytest.approx(594.0 + 0.4 - 1.0)


def test_prefill_rate_is_a_slow_moving_average() -> None:
    policy = PaperPolicy(linear_model())
    ask(policy, "r", Slo(ttft_s=6.0), 1000)
    launch = Launch(0.0, [Prefill("r", 500, 500, 500)], BatchShape(500, 0))
    policy.begin(launch)
    policy.observe(StepOutcome(launch, 0.0, 0.5))
    assert policy.prefill_rate == pytest.approx(0.995 * 8500 + 0.005 * 1000)
    idle = Launch(0.5, [], BatchShape(0, 1))
    policy.begin(idle)
    policy.observe(StepOutcome(idle, 0.5, 0.6))
    assert policy.prefill_rate == pytest.approx(0.995 * 8500 + 0.005 * 1000)
