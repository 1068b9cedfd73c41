from __future__ import annotations

import pytest

from niyama.bench.planned import Lengths, make_plan
from niyama.qos import paper_book
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Workload, load_lengths


def workload(seed: int = 0) -> Workload:
    return Workload(
        name="azure-conv", lengths=load_lengths("azure-conv"), book=paper_book(), arrivals=poisson, seed=seed
    )


@pytest.mark.parametrize(
    ("lengths", "asked", "sent"),
    [
        (Lengths(), (1000, 100), (1000, 100)),
        (Lengths(scale=0.25), (1001, 1), (250, 1)),
        (Lengths(max_prompt=300, max_output=50), (1000, 100), (300, 50)),
        # The prompt makes room for the output.
        (Lengths(max_total=1000), (1000, 100), (900, 100)),
        (Lengths(max_total=1000, min_prompt=10), (1000, 5000), (10, 990)),
        (Lengths(min_prompt=15), (3, 4), (15, 4)),
        (Lengths(min_prompt=15, max_prompt=8), (30, 4), (15, 4)),
    ],
)
def test_lengths_are_fitted(lengths: Lengths, asked: tuple[int, int], sent: tuple[int, int]) -> None:
    assert lengths.fit(*asked) == sent
    assert lengths.is_cut(*asked) == (sent != asked and lengths.scale == 1 and asked[0] > 3)


def test_lengths_that_leave_nothing_are_refused() -> None:
    for bad in ({"scale": 0.0}, {"max_prompt": 0}, {"max_output": 0}, {"max_total": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}: .*allowed"):
            Lengths(**bad)


def test_rate_and_amount_are_kept() -> None:
    plan = make_plan(workload(), 10.0, seconds=100.0)
    assert 850 < len(plan.requests) < 1150
    assert plan.last_due_at < 100.0
    due = [request.due_at for request in plan.requests]
    assert due == sorted(due)
    assert len(make_plan(workload(), 10.0, num_requests=7).requests) == 7


def test_same_seed_same_plan_and_the_rate_changes_only_the_instants() -> None:
    plan = make_plan(workload(), 10.0, num_requests=50)
    assert plan == make_plan(workload(), 10.0, num_requests=50)
    slower = make_plan(workload(), 5.0, num_requests=50)
    for one, other in zip(plan.requests, slower.requests, strict=True):
        assert other.due_at == pytest.approx(2 * one.due_at)
        assert (one.num_prompt_tokens, one.qos_class) == (other.num_prompt_tokens, other.qos_class)
    assert plan.requests != make_plan(workload(1), 10.0, num_requests=50).requests


def test_cut_requests_are_counted() -> None:
    plan = make_plan(workload(), 1.0, num_requests=200, lengths=Lengths(max_prompt=100))
    free = make_plan(workload(), 1.0, num_requests=200)
    assert plan.num_cut == sum(request.num_prompt_tokens > 100 for request in free.requests) > 0
    assert max(request.num_prompt_tokens for request in plan.requests) == 100
