"""What work counts as: as it was measured at the arrival, and as what is left of it when it is taken back."""

from __future__ import annotations

import pytest
from tests.property.hosts import Host, linear_model
from tests.unit.scheduling.scenarios import ask, engine

from niyama.qos import Importance, Slo
from niyama.scheduling.limits import Limits
from niyama.scheduling.load import Faded
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Request
from niyama.scheduling.shares import SHARE_WINDOW_S

LIMITS = Limits(token_budget=448, free_seqs=64, free_kv_tokens=100_000)


def in_full_steps() -> Host:
    """Return an engine that has prefilled a large prompt for a while."""
    host = engine()
    ask(host, "first", Slo(ttlt_s=900.0), 100 * 448, expected=1)
    for _ in range(20):
        host.step()
    return host


def test_service_time_of_a_token_recovers_from_steps_without_room_for_prefill() -> None:
    """Steps full of decodes teach that prefill is slow; after as long without them it is forgotten."""
    host = in_full_steps()
    policy = host.policy
    usual_s = policy.token_s
    for _ in range(200):
        policy._learn_token_time(0.1, 0)
    assert policy.token_s > 4 * usual_s
    for _ in range(60):
        host.step()
    assert policy.token_s < 1.1 * usual_s


def test_service_time_of_a_token_has_an_end_however_long_nothing_is_prefilled() -> None:
    policy = in_full_steps().policy
    alone_s = policy.model.predict_s(BatchShape(512, 0)) / 512
    for _ in range(5_000):
        policy._learn_token_time(0.1, 0)
    assert policy.token_s == pytest.approx(10 * alone_s)


def test_offered_work_counts_at_the_service_time_of_its_arrival() -> None:
    """The backlog is measured anew only when a token's time has changed by a fifth; the load is not.

    Else the load of a whole overload, and alpha with it, would depend on what came before it.
    """
    host = in_full_steps()
    policy = host.policy
    assert isinstance(policy, NiyamaPolicy)
    kept_s = policy._token_s
    while policy.token_s < 1.1 * kept_s:
        policy._learn_token_time(0.1, 0)
    ask(host, "next", Slo(ttlt_s=900.0))
    assert policy._token_s == kept_s
    offered = policy.ledger.jobs["next"].offered
    assert offered is not None
    assert offered.pressing_s == pytest.approx(448 * policy.token_s)


def test_what_is_found_cached_late_is_taken_back_as_what_is_left_of_it() -> None:
    """A load that has faded is not taken back at its full weight: that would hide what comes next."""
    policy = NiyamaPolicy(linear_model(fixed_s=1 / 8, token_s=1 / 512, decode_s=0.0))
    policy.arrive(Request("cached", 0.0, Slo(ttlt_s=900.0), 50_000, 9), 0.0)
    policy.arrive(Request("other", 0.0, Slo(ttlt_s=900.0), 10_000, 9), 0.0)
    both = policy.load.share(240.0)
    policy.cached("cached", 49_999, 240.0)
    assert policy.load.share(240.0) == pytest.approx(both / 6, rel=1e-3)
    policy.cached("cached", 49_999, 300.0)
    assert policy.load.share(240.0) == pytest.approx(both / 6, rel=1e-3), "nothing new is cached"


def test_who_is_taken_back_later_leaves_no_hole_in_what_counts_as_set_aside() -> None:
    """What was set aside 97 s ago has faded since; only that much is taken back."""
    host = engine()
    ask(host, "paid", Slo(ttft_s=99.0), 100 * 448, Importance.HIGH)
    ask(host, "free", Slo(ttft_s=99.2), importance=Importance.LOW)
    policy = host.policy
    assert isinstance(policy, NiyamaPolicy)
    assert policy.plan(0.0, LIMITS).relegated == ["free"]
    policy.depart("paid", 97.0)
    assert policy.plan(97.0, LIMITS).restored == ["free"]
    account, fresh = policy.shares._accounts[Importance.LOW][""], Faded(SHARE_WINDOW_S)
    fresh.add(0.0, 0.0)
    for each in (account.aside, fresh):
        each.add(100.0, 97.0)
    assert account.aside.share(97.0) == pytest.approx(fresh.share(97.0))


def test_a_promotion_that_does_not_help_changes_nothing() -> None:
    """Alpha has changed since it was put in order; a search for a victim does not put it in order anew."""
    policy = NiyamaPolicy(linear_model(fixed_s=1 / 8, token_s=1 / 512, decode_s=0.0))
    for request_id, ttft_s, num_tokens in (("long", 45.0, 8000), ("short", 50.0, 4000)):
        policy.arrive(Request(request_id, 0.0, Slo(ttft_s=ttft_s), num_tokens, 9), 0.0)
    policy.load.offer(90.0, 90.0, int(Importance.NORMAL), 0.0)
    assert policy.load.follow(0.0)
    late = policy.backlog.item("long")
    before = (late.key, late.work_s, late.due_at, late.rank)
    now_s = policy.backlog.margin + 0.5
    assert policy._has_time_for(policy.ledger.jobs["long"], now_s)
    assert not policy._promote(late, now_s)
    found = policy.backlog.item("long")
    assert (found.key, found.work_s, found.due_at, found.rank) == before
    assert not policy.ledger.jobs["long"].promoted
