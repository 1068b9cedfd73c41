"""The slack-aware router on any loads, and the reports of any policy on any backlog."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from niyama.latency import get_profile
from niyama.qos import Slo
from niyama.scheduling.backlog import Backlog, FullKey
from niyama.scheduling.outline import FIRST_LEVEL_S, LEVEL_RATIO, Outline
from niyama.scheduling.policy import Request
from niyama.scheduling.registry import POLICIES, make_policy
from niyama.scheduling.reports import Report, order_of, turn_of
from niyama.scheduling.routing import Estimate, least_work, slack_aware

SLOS = (
    Slo(ttft_s=1.0, tbt_s=0.05),
    Slo(ttft_s=2.0, tbt_s=0.1),
    Slo(ttft_s=6.0),
    Slo(ttlt_s=20.0),
    Slo(ttlt_s=600.0),
    Slo(),
)


@dataclass
class Told:
    """A replica that a real router has heard of."""

    work_s: float
    is_kept: bool
    tightest_tbt_s: float
    is_pace_kept: bool
    wait_s: float
    drain_s: float = 0.0
    is_hurried: bool = False

    def is_hurried_for(self, request: Request) -> bool:
        return self.is_hurried

    def keeps(self, request: Request, now_s: float) -> bool:
        return self.is_kept

    def keeps_pace(self, request: Request) -> bool:
        return self.is_pace_kept

    def done_at(self, request: Request, now_s: float) -> float:
        return now_s + self.wait_s


def requests(draw: st.DrawFn, prefix: str, most: int) -> list[Request]:
    return [
        Request(
            f"{prefix}{number}",
            draw(st.floats(0.0, 5.0)),
            draw(st.sampled_from(SLOS)),
            draw(st.integers(1, 9000)),
            4096,
        )
        for number in range(draw(st.integers(0, most)))
    ]


@st.composite
def reports(draw: st.DrawFn, policy: str) -> list[Report]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        host = make_policy(policy, get_profile("a100-80gb/llama-3-8b/tp1"))
        for request in requests(draw, f"w{number}-", 12):
            host.arrive(request, 5.0)
        found.append(Report(host, 5.0, draw(st.sampled_from((0.0, 5.2))), 8, 400_000))
    return found


def check_choice(request: Request, now_s: float, replicas: Sequence[Estimate]) -> None:
    """Nobody is sent where it is predicted late while another replica keeps it; paces are bunched."""
    chosen = replicas[slack_aware(request, now_s, replicas)]
    keepers = [replica for replica in replicas if replica.keeps(request, now_s)]
    tbt_s = request.slo.tbt_s
    if not keepers and tbt_s is not None:
        able = [replica for replica in replicas if replica.keeps_pace(request)] or replicas
        assert chosen.done_at(request, now_s) == min(replica.done_at(request, now_s) for replica in able)
        return
    assert not keepers or chosen.keeps(request, now_s)
    if tbt_s is None:
        asked = keepers or replicas
        average_s = sum([replica.drain_s for replica in replicas]) / len(replicas)
        hurried = [one for one in asked if one.is_hurried_for(request) and one.drain_s <= average_s]
        assert chosen.drain_s == min(replica.drain_s for replica in hurried or asked)
        return
    paces = [replica.tightest_tbt_s for replica in keepers]
    looser = [pace_s for pace_s in paces if pace_s >= tbt_s]
    assert chosen.tightest_tbt_s == (min(looser) if looser else max(paces))


told = st.builds(
    Told,
    st.floats(0, 1e3),
    st.booleans(),
    st.sampled_from((0.02, 0.05, 0.1, math.inf)),
    st.booleans(),
    st.floats(0, 1e3),
    st.floats(0, 1e3),
    st.booleans(),
)


@given(replicas=st.lists(told, min_size=1, max_size=9), slo=st.sampled_from(SLOS))
def test_choice_among_replicas_that_are_heard_of(replicas: list[Told], slo: Slo) -> None:
    check_choice(Request("new", 5.0, slo, 100, 10), 5.0, replicas)
    assert replicas[least_work(replicas)].work_s == min(replica.work_s for replica in replicas)


@settings(max_examples=60)
@given(data=st.data(), policy=st.sampled_from(sorted(POLICIES)))
def test_choice_by_reports_of_policies(data: st.DataObject, policy: str) -> None:
    replicas = data.draw(reports(policy))
    slo = data.draw(st.sampled_from(SLOS))
    request = Request("new", 5.0, slo, data.draw(st.integers(1, 9000)), 4096)
    before = [[list(order_of(r._policy)), order_of(r._policy).total_s] for r in replicas]
    check_choice(request, 5.0, replicas)
    assert [[list(order_of(r._policy)), order_of(r._policy).total_s] for r in replicas] == before


def in_order(backlog: Backlog) -> list[tuple[FullKey, float, float]]:
    """Return key, work and due time of everybody, in the order of service."""
    return [(item.key, item.work_s, item.due_at) for item in map(backlog.item, backlog)]


@settings(max_examples=80)
@given(data=st.data(), policy=st.sampled_from(sorted(POLICIES)))
def test_promise_that_is_kept_is_kept_by_plain_counting(data: st.DataObject, policy: str) -> None:
    (replica, *_) = data.draw(reports(policy))
    slo = data.draw(st.sampled_from(SLOS))
    request = Request("new", 5.0, slo, data.draw(st.integers(1, 9000)), 4096)
    assume(replica.keeps(request, 5.0))
    turn = turn_of(replica._policy, request)
    done_at = max(5.0, replica._free_at)
    is_behind = False
    rows = [*in_order(order_of(replica._policy)), turn]
    for key, work_s, due_at in sorted(rows):
        done_at += work_s
        is_behind = is_behind or key == turn.key
        if is_behind:
            assert done_at <= due_at + 1e-6


items = st.tuples(st.floats(0, 100), st.floats(0.001, 50), st.floats(0, 1e3))


@given(rows=st.lists(items, max_size=60), at=st.floats(0, 100))
def test_outline_never_tells_too_well_and_is_a_level_off_at_most(
    rows: list[tuple[float, float, float]], at: float
) -> None:
    backlog = Backlog()
    for number, (priority, work_s, due_at) in enumerate(rows):
        backlog.put(f"r{number}", (priority,), work_s, due_at)
    new: FullKey = ((at,), "new")
    place = Outline(backlog).place(new)
    before_s, latest_at, longest_s = 0.0, math.inf, max([work_s for _, work_s, _ in rows], default=0.0)
    upto_s = 0.0
    for key, work_s, due_at in in_order(backlog):
        upto_s += work_s
        if key < new:
            before_s = upto_s
        else:
            latest_at = min(latest_at, due_at - upto_s)
    assert place.latest_at <= latest_at + 1e-6
    assert before_s - 1e-6 <= place.before_s <= LEVEL_RATIO * (before_s + longest_s) + FIRST_LEVEL_S + 1e-6


def test_what_was_sent_since_the_report_counts() -> None:
    policy = make_policy("niyama", get_profile("a100-80gb/llama-3-8b/tp1"))
    replica = Report(policy, 0.0, 0.0, 64, 400_000)
    kept = 0
    while replica.keeps(Request(f"r{kept}", 0.0, SLOS[0], 1000, 100), 0.0):
        replica.sent(Request(f"r{kept}", 0.0, SLOS[0], 1000, 100))
        kept += 1
    assert 0 < kept < 10
    assert replica.tightest_tbt_s == SLOS[0].tbt_s
    assert replica.keeps(Request("later", 0.0, SLOS[4], 1000, 100), 0.0)


def test_pace_that_no_step_keeps_is_not_kept() -> None:
    policy = make_policy("niyama", get_profile("a100-80gb/llama-3-8b/tp1"))
    request = Request("new", 0.0, Slo(tbt_s=0.001), 1000, 4096)
    assert not Report(policy, 0.0, 0.0, 8, 400_000).keeps(request, 0.0)
