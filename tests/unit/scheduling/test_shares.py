from __future__ import annotations

import pytest

from niyama.qos import Importance, Slo
from niyama.scheduling.policy import Request
from niyama.scheduling.shares import (
    BEYOND,
    FORGET_S,
    MAX_TENANTS,
    NUM_STANDINGS,
    SHARE_WINDOW_S,
    WITHIN,
    Shares,
)


def ask(
    tenant: str, number: int = 0, weight: float = 1.0, importance: Importance = Importance.NORMAL
) -> Request:
    return Request(
        f"{tenant}{number}", 0.0, Slo(), 100, 1, tenant=tenant, importance=importance, tenant_weight=weight
    )


def asked(
    rates: dict[str, float],
    weights: dict[str, float] | None = None,
    *,
    capacity: float = 100.0,
    sizes: tuple[int, ...] = (100,),
) -> tuple[Shares, float]:
    """Return shares after long steady asking, in tokens per second; what is too much is set aside."""
    shares, now_s = Shares(), 0.0
    given = weights or {}
    over = max(0.0, sum(rates.values()) - capacity) / sum(rates.values())
    while now_s < 5 * SHARE_WINDOW_S:
        for tenant, rate in rates.items():
            for size in sizes:
                request = ask(tenant, weight=given.get(tenant, 1.0))
                num_tokens = round(rate * size / sum(sizes))
                # The size is what counts for the place; the rate is made of as many as it takes.
                for _ in range(max(1, num_tokens // size)):
                    shares.arrive(request, size, now_s)
                    shares.set_aside(request, round(over * size), now_s)
        now_s += 1.0
    assert shares.follow(now_s) == (over > 0)
    return shares, now_s


def standings(shares: Shares, tenant: str, size: int = 100) -> list[int]:
    return [shares.standing(ask(tenant, number), size) for number in range(400)]


def test_tenant_that_asks_for_less_than_its_share_has_no_standing() -> None:
    shares, _ = asked({"modest": 100.0, "greedy": 500.0}, capacity=300.0)
    assert set(standings(shares, "modest")) == {0}
    assert min(standings(shares, "greedy")) >= WITHIN


def test_what_one_leaves_is_the_others() -> None:
    """Of 300, `modest` leaves 200 for the 500 that `greedy` asks for: two in five are within."""
    shares, _ = asked({"modest": 100.0, "greedy": 500.0}, capacity=300.0)
    within = sum(standing < BEYOND for standing in standings(shares, "greedy")) / 400
    assert within == pytest.approx(0.4, abs=0.06)


def test_share_goes_by_weight() -> None:
    shares, _ = asked({"a": 600.0, "b": 600.0}, {"a": 2.0, "b": 1.0}, capacity=600.0)
    within = {t: sum(s < BEYOND for s in standings(shares, t)) / 400 for t in "ab"}
    assert within["a"] == pytest.approx(2 * within["b"], rel=0.15)


def test_small_requests_of_a_tenant_stand_before_its_large_ones() -> None:
    shares, _ = asked({"a": 3000.0, "b": 3000.0}, capacity=3000.0, sizes=(50, 200, 800))
    ranks = [max(standings(shares, "a", size)) for size in (50, 200, 800)]
    assert ranks == sorted(set(ranks))
    assert max(standings(shares, "a", 50)) < BEYOND
    assert max(standings(shares, "a", 800)) >= BEYOND
    assert shares.standing(ask("a"), 10**9) < NUM_STANDINGS


def test_tenant_alone_has_no_standing_whatever_it_asks_for() -> None:
    shares, now_s = Shares(), 0.0
    for number in range(100):
        shares.arrive(ask("a", number), 10_000, float(number))
        shares.set_aside(ask("a", number), 9_000, float(number))
        now_s = float(number)
    assert not shares.follow(now_s)
    assert not shares.is_shared(Importance.NORMAL)
    assert set(standings(shares, "a", 10_000)) == {0}


def test_nobody_is_marked_while_nothing_is_set_aside_but_who_asks_for_most() -> None:
    shares = Shares()
    for second in range(200):
        for tenant, tokens in (("a", 100), ("b", 100), ("c", 300)):
            shares.arrive(ask(tenant), tokens, float(second))
    shares.follow(200.0)
    assert {t: shares.standing(ask(t), 100) > 0 for t in "abc"} == {"a": False, "b": False, "c": True}


def test_importances_are_shared_apart() -> None:
    shares = Shares()
    for second in range(200):
        for tenant, importance in (("a", Importance.HIGH), ("b", Importance.LOW), ("c", Importance.LOW)):
            request = ask(tenant, importance=importance)
            shares.arrive(request, 1000 if tenant != "c" else 100, float(second))
            shares.set_aside(request, 500 if tenant != "c" else 0, float(second))
    shares.follow(200.0)
    assert shares.standing(ask("a", importance=Importance.HIGH), 1000) == 0
    assert shares.standing(ask("b", importance=Importance.LOW), 1000) >= WITHIN
    assert shares.standing(ask("c", importance=Importance.LOW), 100) == 0


def test_answers_count_for_the_share() -> None:
    """Both ask for the same prefill; the answers of `talker` cost five times as much again."""
    shares = Shares()
    for second in range(300):
        for tenant in ("quiet", "talker"):
            shares.arrive(ask(tenant), 100, float(second))
        shares.answered(ask("talker"), 250, float(second))
    shares.follow(300.0)
    assert shares.standing(ask("quiet"), 100) == 0
    assert shares.standing(ask("talker"), 100) >= WITHIN


def test_what_was_taken_back_is_not_set_aside() -> None:
    shares, other = Shares(), Shares()
    for second in range(100):
        for each in (shares, other):
            each.arrive(ask("a"), 100, float(second))
            each.arrive(ask("b"), 300, float(second))
        shares.set_aside(ask("b"), 300, float(second))
        shares.set_aside(ask("b"), -300, float(second))
    shares.follow(100.0)
    other.follow(100.0)
    assert standings(shares, "b") == standings(other, "b")


def test_tenant_that_is_gone_for_long_is_forgotten() -> None:
    shares = Shares()
    shares.arrive(ask("a"), 100, 0.0)
    shares.arrive(ask("b"), 100, 0.0)
    assert shares.is_shared(Importance.NORMAL)
    shares.arrive(ask("b"), 100, FORGET_S + 1.0)
    shares.follow(FORGET_S + 1.0)
    assert not shares.is_shared(Importance.NORMAL)


def test_however_many_tenants_clients_name_the_oldest_are_forgotten() -> None:
    shares = Shares()
    for number in range(3 * MAX_TENANTS):
        shares.arrive(ask(f"t{number}-"), 100, 0.0)
        shares.arrive(ask("regular"), 100, 0.0)
    accounts = shares._accounts[int(Importance.NORMAL)]
    assert len(accounts) == MAX_TENANTS
    assert "regular" in accounts, "who keeps asking is kept"
    assert f"t{3 * MAX_TENANTS - 1}-" in accounts
    assert "t0-" not in accounts
