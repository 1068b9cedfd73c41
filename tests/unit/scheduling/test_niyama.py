"""Small scenarios, every event asserted.

The engine takes 1/8 s per step plus 1/512 s per prefill token, so a full step of 448 tokens takes
1 s; decodes cost nothing beyond the step.
"""

from __future__ import annotations

import math

import pytest
from tests.property.enginestep import Event
from tests.property.hosts import Host, linear_model
from tests.unit.scheduling.scenarios import ask, engine

from niyama.qos import Importance, Slo
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import RESERVE_SHARE, NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Launch, Prefill, Request, StepOutcome

LIMITS = Limits(token_budget=448, free_seqs=64, free_kv_tokens=100_000)


def served(at: float, request_id: str) -> list[Event]:
    """A whole prefill in one step, and the answer of one token at its end."""
    return [
        Event(at, request_id, "prefill 448"),
        Event(at + 1, request_id, "first"),
        Event(at + 1, request_id, "finish"),
    ]


def test_prefills_at_light_load_run_by_deadline() -> None:
    host = engine()
    for request_id, ttft_s in (("c", 10.0), ("a", 20.0), ("b", 5.0)):
        ask(host, request_id, Slo(ttft_s=ttft_s))
    host.run()
    assert host.events == [*served(0, "b"), *served(1, "c"), *served(2, "a")]


def test_started_prefill_is_held_for_a_more_urgent_one_and_goes_on_after_it() -> None:
    host = engine()
    ask(host, "long", Slo(ttlt_s=500.0), 3 * 448, expected=1)
    host.step()
    ask(host, "urgent", Slo(ttft_s=2.0))
    host.run()
    assert host.events == [
        Event(0, "long", "prefill 448"),
        Event(1, "long", "hold"),
        *served(1, "urgent"),
        Event(2, "long", "prefill 448"),
        Event(3, "long", "prefill 448"),
        Event(4, "long", "first"),
        Event(4, "long", "finish"),
    ]


def test_relegated_request_comes_back_when_there_is_room_again() -> None:
    """`free` would end at 3.0, late; when `paid` is gone after its first step, it ends at 2.0."""
    host = engine()
    ask(host, "paid", Slo(ttft_s=2.5), 2 * 448, Importance.HIGH)
    ask(host, "free", Slo(ttft_s=2.9), importance=Importance.LOW)
    host.step()
    host.abort("paid")
    host.run()
    assert host.events == [
        Event(0, "free", "relegate"),
        Event(0, "paid", "prefill 448"),
        Event(1, "free", "restore"),
        *served(1, "free"),
    ]


def test_relegated_request_that_made_progress_needs_less_room_to_come_back() -> None:
    """Four seconds of `paid` leave one second until 5.0: too little for 896 tokens, enough for 196."""
    host = engine()
    ask(host, "paid", Slo(ttft_s=4.5), 4 * 448, Importance.HIGH)
    ask(host, "free", Slo(ttft_s=5.0), 2 * 448, Importance.LOW)
    policy = host.policy
    assert policy.plan(0.0, LIMITS).relegated == ["free"]
    launch = Launch(0.0, [Prefill("free", 700, 700, 196)], BatchShape(700, 0))
    policy.begin(launch)
    policy.observe(StepOutcome(launch, 0.0, 0.2, is_clean=False))
    assert policy.plan(0.2, LIMITS).restored == ["free"]


def test_order_follows_load_from_deadlines_to_shortest_work() -> None:
    """Three times more work than the engine can do: what is short goes first, though due later."""
    policy = NiyamaPolicy(linear_model(fixed_s=1 / 8, token_s=1 / 512, decode_s=0.0))
    for request_id, ttft_s, num_tokens in (("long", 40.0, 8000), ("short", 45.0, 100)):
        policy.arrive(Request(request_id, 0.0, Slo(ttft_s=ttft_s), num_tokens, 9), 0.0)
    policy.plan(0.0, LIMITS)
    assert [job.request_id for job in policy.in_order()] == ["long", "short"]
    policy.load.offer(90.0, 90.0, int(Importance.NORMAL), 0.0)
    for _ in range(3):
        policy.plan(0.0, LIMITS)
    assert policy.alpha_s > 0
    assert [job.request_id for job in policy.in_order()] == ["short", "long"]


def test_overload_sets_aside_by_importance_and_serves_them_last() -> None:
    """Four seconds of work are due in 2.2 s: two can be in time, the two important ones are."""
    host = engine()
    for request_id, importance in (
        ("low", Importance.LOW),
        ("high1", Importance.HIGH),
        ("normal", Importance.NORMAL),
        ("high2", Importance.HIGH),
    ):
        ask(host, request_id, Slo(ttft_s=2.2), importance=importance)
    host.run()
    assert host.events == [
        Event(0, "low", "relegate"),
        Event(0, "normal", "relegate"),
        *served(0, "high1"),
        *served(1, "high2"),
        *served(2, "normal"),
        *served(3, "low"),
    ]


def test_request_that_cannot_be_in_time_lets_the_others_pass() -> None:
    """`hopeless` needs 3 s and has 1.5; served first it would make `easy` late as well."""
    host = engine()
    ask(host, "hopeless", Slo(ttft_s=1.5), 3 * 448, Importance.HIGH)
    ask(host, "easy", Slo(ttft_s=2.0), importance=Importance.LOW)
    host.run()
    assert host.events[:4] == [Event(0, "hopeless", "relegate"), *served(0, "easy")]
    assert host.events[-1] == Event(4, "hopeless", "finish")


def test_chunk_is_what_fits_the_time_until_the_next_token_is_due() -> None:
    """The reader's first token comes at 0.25 and the next is due at 0.75.

    Of these 0.5 s the step takes 0.125; the rest, less the reserve, is for prefill at 512 tokens/s.
    """
    host = engine()
    ask(host, "reader", Slo(ttft_s=9.0, tbt_s=0.5), 64, num_output=50)
    host.step()
    assert host.now_s == 0.25
    ask(host, "batch", Slo(ttlt_s=500.0), 5000, expected=1)
    policy = host.policy
    assert isinstance(policy, NiyamaPolicy)
    plan = policy.plan(host.now_s, LIMITS)
    assert plan.slack_s == 0.5
    time_s = 0.5 - min(policy._stalls.stall_s(policy.step_s), RESERVE_SHARE * 0.5)
    assert [chunk.request_id for chunk in plan.chunks] == ["batch"]
    assert plan.chunks[0].num_tokens == math.floor((time_s - 0.125) * 512)
    assert 80 < plan.chunks[0].num_tokens <= 192


def test_what_rides_along_with_a_first_token_leaves_half_of_the_time() -> None:
    """No decode binds, so the step's end is bound by the first token alone, due in 0.5 s."""
    host = engine()
    ask(host, "asker", Slo(ttft_s=0.5, tbt_s=0.5), 32)
    ask(host, "batch", Slo(ttlt_s=500.0), 5000, expected=1)
    policy = host.policy
    assert isinstance(policy, NiyamaPolicy)
    plan = policy.plan(host.now_s, LIMITS)
    assert [chunk.request_id for chunk in plan.chunks] == ["asker", "batch"]
    assert plan.shape.num_prefill_tokens == math.floor((0.25 - 0.125) * 512)


def test_reserve_follows_what_the_engine_showed() -> None:
    host = engine()
    ask(host, "reader", Slo(ttft_s=9.0, tbt_s=0.5), 64, num_output=4000)
    policy = host.policy
    assert isinstance(policy, NiyamaPolicy)
    assert policy._stalls.stall_s(policy.step_s) > 0, "nothing is known of a new engine"
    for _ in range(3999):
        host.step()
    assert policy._stalls.stall_s(policy.step_s) < 0.03, "it has kept to its times for two minutes"
    launch = Launch(host.now_s, [], BatchShape(0, 1, 64))
    policy.begin(launch)
    predicted_s = policy.model.predict_s(launch.shape)
    late_s = predicted_s + policy.model.margin_s(predicted_s) + 0.1
    policy.observe(StepOutcome(launch, started_at=host.now_s, ended_at=host.now_s + late_s))
    assert policy._stalls.stall_s(policy.step_s) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(("share", "relegated"), [(0.5, []), (1.3, ["tight"])])
def test_request_is_set_aside_for_a_stall_only_beyond_the_load(share: float, relegated: list[str]) -> None:
    policy, now_s = NiyamaPolicy(linear_model()), 0.0
    while now_s < 300.0:
        policy.load.offer(share, share, int(Importance.NORMAL), now_s)
        now_s += 1.0
    stall_s = policy._stalls.stall_s(policy.step_s)
    assert stall_s > 0
    slo = Slo(ttft_s=448 * policy.token_s + stall_s / 2)
    policy.arrive(Request("tight", now_s, slo, 448, 1), now_s)
    assert policy.plan(now_s, LIMITS).relegated == relegated


def test_tokens_that_come_early_earn_slack_for_a_larger_chunk() -> None:
    """Four steps without prefill take 0.5 s while the reader needs 2 s for their tokens."""
    host = engine()
    ask(host, "reader", Slo(ttft_s=9.0, tbt_s=0.5), 64, num_output=50)
    host.step()
    early = host.policy.slack_s(host.now_s)
    for _ in range(4):
        host.step()
    assert early == 0.5
    assert host.policy.slack_s(host.now_s) == pytest.approx(0.25 + 2.5 - 0.75)


def test_answer_with_a_deadline_decodes_at_the_pace_that_it_needs() -> None:
    """20 tokens are left for 9.75 s: 0.4875 s each, on the grid of paces 2^(-5/4) s."""
    host = engine()
    ask(host, "report", Slo(ttlt_s=10.0), 64, num_output=21, expected=21)
    host.step()
    assert host.now_s == 0.25
    assert host.policy.slack_s(host.now_s) == pytest.approx(2 ** (-5 / 4))


def test_prefill_waiting_for_a_place_does_not_stop_one_that_has_its() -> None:
    """With no seat left for `urgent`, holding `long` for it would stop the engine for ever."""
    host = engine()
    host.max_seqs = 1
    ask(host, "long", Slo(ttlt_s=500.0), 2 * 448, expected=1)
    host.step()
    ask(host, "urgent", Slo(ttft_s=3.5))
    host.run()
    assert host.events == [
        Event(0, "long", "prefill 448"),
        Event(1, "long", "prefill 448"),
        Event(2, "long", "first"),
        Event(2, "long", "finish"),
        *served(2, "urgent"),
    ]


def test_preempted_answer_that_was_relegated_before_is_not_set_aside_any_more() -> None:
    """Its first token came out; what happened to its prefill is over."""
    host = engine()
    ask(host, "late", Slo(ttft_s=0.5, tbt_s=20.0), 448, num_output=50)
    host.step()
    assert host.events[0] == Event(0, "late", "relegate")
    host.num_blocks, host.reserved = 400, 400 - 28  # 448 tokens in 28 blocks, and not one more
    host.step()
    assert host.seen["preempted"] == 1
    assert not host.policy.ledger.jobs["late"].relegated


def test_plan_unchanged_state_is_the_same_again() -> None:
    host = engine()
    for number in range(5):
        ask(host, f"r{number}", Slo(ttft_s=2.2), 300)
    first, second = (host.policy.plan(0.0, LIMITS) for _ in range(2))
    assert first.chunks
    assert (second.chunks, second.held, second.spares) == (first.chunks, first.held, first.spares)
    assert second.relegated == []


def test_steps_are_short_while_there_is_time_so_that_who_comes_is_served_soon() -> None:
    """Five steps without prefill take 0.625 s; 1 s of work in 30 s is a load of 3 %, and a bit waits."""
    host = engine(NiyamaPolicy)
    ask(host, "batch", Slo(ttlt_s=500.0), expected=1)
    host.step()
    assert 0.625 <= host.now_s <= 0.625 / 0.95
    assert host.events[0].what == f"prefill {round((host.now_s - 0.125) * 512)}"


def test_step_is_long_if_somebody_needs_it() -> None:
    host = engine(NiyamaPolicy)
    ask(host, "pressed", Slo(ttft_s=1.5))
    host.step()
    assert host.events[0] == Event(0, "pressed", "prefill 448")


def test_steps_are_long_while_more_waits_than_a_while_can_do() -> None:
    """Work that came long ago does not count as load any more, but it is not done either."""
    host = engine(NiyamaPolicy)
    for number in range(200):
        ask(host, f"r{number}", Slo(ttlt_s=90_000.0), expected=1)
    host.now_s = 4000.0
    host.step()
    assert host.now_s == 4001.0


def test_short_steps_give_way_where_they_leave_no_room_for_a_token() -> None:
    model = linear_model(fixed_s=1 / 64, token_s=1 / 4, decode_s=0.0)
    host = Host(NiyamaPolicy(model), token_budget=448)
    ask(host, "slow", Slo(ttlt_s=9000.0), 4, expected=1)
    host.run()
    assert host.verdicts["slow"].outcome == "met"
