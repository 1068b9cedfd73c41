"""The slack-aware router on any loads, and its estimate of any policy on any backlog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from niyama.latency import get_profile
from niyama.qos import Slo
from niyama.scheduling.backlog import Backlog
from niyama.scheduling.policy import Request
from niyama.scheduling.registry import POLICIES, make_policy
from niyama.scheduling.routing import PolicyEstimate, _backlog, _turn, least_work, slack_aware

SLOS = (Slo(ttft_s=1.0, tbt_s=0.05), Slo(ttft_s=6.0), Slo(ttlt_s=20.0), Slo(ttlt_s=600.0), Slo())


@dataclass
class Told:
    """A replica that a real router has heard of."""

    work_s: float
    is_kept: bool

    def keeps(self, request: Request, now_s: float) -> bool:
        return self.is_kept


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
def estimates(draw: st.DrawFn, policy: str) -> list[PolicyEstimate]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        host = make_policy(policy, get_profile("a100-80gb/llama-3-8b/tp1"))
        for request in requests(draw, f"w{number}-", 12):
            host.arrive(request, 5.0)
        found.append(PolicyEstimate(host, draw(st.sampled_from((0.0, 5.2))), 8, 400_000))
    return found


def check_choice(request: Request, now_s: float, replicas: Sequence[Told | PolicyEstimate]) -> None:
    """Nobody is sent where it is predicted late while another replica keeps it, and it packs."""
    chosen = replicas[slack_aware(request, now_s, replicas)]
    keepers = [replica for replica in replicas if replica.keeps(request, now_s)]
    if keepers:
        assert chosen.keeps(request, now_s)
        assert chosen.work_s == max(replica.work_s for replica in keepers)
    else:
        assert chosen.work_s == min(replica.work_s for replica in replicas)
        assert chosen is replicas[least_work(replicas)]


@given(told=st.lists(st.builds(Told, st.floats(0, 1e3), st.booleans()), min_size=1, max_size=9))
def test_choice_among_replicas_that_are_heard_of(told: list[Told]) -> None:
    check_choice(Request("new", 5.0, SLOS[0], 100, 10), 5.0, told)


@settings(max_examples=60)
@given(data=st.data(), policy=st.sampled_from(sorted(POLICIES)))
def test_choice_among_policies(data: st.DataObject, policy: str) -> None:
    replicas = data.draw(estimates(policy))
    slo = data.draw(st.sampled_from(SLOS))
    request = Request("new", 5.0, slo, data.draw(st.integers(1, 9000)), 4096)
    before = [[list(_backlog(r.policy)), _backlog(r.policy).total_s] for r in replicas]
    check_choice(request, 5.0, replicas)
    assert [[list(_backlog(r.policy)), _backlog(r.policy).total_s] for r in replicas] == before


@settings(max_examples=80)
@given(data=st.data(), policy=st.sampled_from(sorted(POLICIES)))
def test_promise_that_is_kept_is_kept_by_plain_counting(data: st.DataObject, policy: str) -> None:
    (replica, *_) = data.draw(estimates(policy))
    request = Request("new", 5.0, data.draw(st.sampled_from(SLOS)), data.draw(st.integers(1, 9000)), 4096)
    assume(replica.keeps(request, 5.0))
    turn = _turn(replica.policy, request, 256)
    order: Backlog = _backlog(replica.policy)
    items = [order.item(i) for i in order]
    rows = [(item.key, item.work_s, item.due_at) for item in items]
    rows.append(((turn.key, "new"), turn.work_s, turn.due_at))
    done_at = max(5.0, replica.free_at)
    is_behind = False
    for (_, request_id), work_s, due_at in sorted(rows):
        done_at += work_s
        is_behind = is_behind or request_id == "new"
        if is_behind:
            assert done_at <= due_at + 1e-6


def test_request_without_room_is_not_kept() -> None:
    policy = make_policy("niyama", get_profile("a100-80gb/llama-3-8b/tp1"))
    request = Request("new", 0.0, SLOS[3], 1000, 4096)
    assert PolicyEstimate(policy, 0.0, 1, 100_000).keeps(request, 0.0)
    assert not PolicyEstimate(policy, 0.0, 0, 100_000).keeps(request, 0.0)
    assert not PolicyEstimate(policy, 0.0, 1, 1000).keeps(request, 0.0)


def test_pace_that_no_step_keeps_is_not_kept() -> None:
    policy = make_policy("niyama", get_profile("a100-80gb/llama-3-8b/tp1"))
    request = Request("new", 0.0, Slo(tbt_s=0.001), 1000, 4096)
    assert not PolicyEstimate(policy, 0.0, 8, 100_000).keeps(request, 0.0)
