from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from niyama.qos import Importance, paper_book
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Arrival, Shares, Workload, load_lengths
from niyama.workload.tracefile import TraceRow

ROWS = Shares([(TraceRow(None, n, 10 * n), 1.0) for n in range(1, 6)])


def workload(**changes: object) -> Workload:
    base = Workload(name="test", lengths=ROWS, book=paper_book(), arrivals=poisson)
    return replace(base, **changes)  # type: ignore[arg-type]


def lengths(arrivals: list[Arrival]) -> list[tuple[int, int, str]]:
    return [(a.request.num_prompt_tokens, a.num_output_tokens, a.request.qos_class) for a in arrivals]


def test_same_seed_gives_the_same_requests_and_another_seed_others() -> None:
    one, same, other = (list(workload(seed=seed).requests(2.0, 50)) for seed in (3, 3, 4))
    assert one == same
    assert lengths(one) != lengths(other)


def test_longer_workload_begins_with_the_shorter() -> None:
    assert list(workload().requests(2.0, 80))[:30] == list(workload().requests(2.0, 30))


def test_rate_changes_nothing_but_the_arrivals() -> None:
    slow, fast = (list(workload().requests(qps, 60)) for qps in (1.0, 4.0))
    assert lengths(slow) == lengths(fast)
    assert slow[-1].request.arrived_at == pytest.approx(4 * fast[-1].request.arrived_at)


def test_mix_and_tenants_have_their_shares_and_do_not_disturb_the_lengths() -> None:
    plain = list(workload().requests(1.0, 4000))
    mixed = list(workload(mix={"interactive": 1, "batch": 3}, tenants={"a": 1, "b": 4}).requests(1.0, 4000))
    classes = Counter(a.request.qos_class for a in mixed)
    assert classes["batch"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert classes["background"] == 0
    assert Counter(a.request.tenant for a in mixed)["b"] / 4000 == pytest.approx(0.8, abs=0.03)
    assert [x[:2] for x in lengths(plain)] == [x[:2] for x in lengths(mixed)]


def test_low_share_makes_that_share_unimportant() -> None:
    arrivals = list(workload(low_share=0.2).requests(1.0, 4000))
    low = sum(a.request.importance is Importance.LOW for a in arrivals)
    assert low / 4000 == pytest.approx(0.2, abs=0.03)


def test_class_shares_are_those_of_the_rows_and_the_mix_for_rows_without_a_class() -> None:
    assert workload().class_shares == pytest.approx(
        {"interactive": 1 / 3, "batch": 1 / 3, "background": 1 / 3}
    )
    assert workload(mix={"batch": 3, "interactive": 1, "background": 0}).class_shares == {
        "batch": 0.75,
        "interactive": 0.25,
    }
    named, free = TraceRow(None, 5, 6, "batch"), TraceRow(None, 5, 6)
    assert workload(lengths=Shares([(named, 1.0)])).class_shares == {"batch": 1.0}
    both = workload(lengths=Shares([(named, 3.0), (free, 1.0)]), mix={"interactive": 2})
    assert both.class_shares == {"interactive": 0.25, "batch": 0.75}
    drawn = Counter(a.request.qos_class for a in both.requests(1.0, 4000))
    assert drawn["batch"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_row_that_names_class_tenant_and_importance_keeps_them() -> None:
    row = TraceRow(None, 5, 6, "batch", "acme", Importance.HIGH)
    (arrival,) = workload(lengths=Shares([(row, 1.0)]), low_share=1.0).requests(1.0, 1)
    request = arrival.request
    assert (request.qos_class, request.tenant, request.importance) == ("batch", "acme", Importance.HIGH)


def test_recorded_rows_come_in_their_order() -> None:
    arrivals = list(workload(is_recorded=True).requests(1.0, 7))
    assert [a.request.num_prompt_tokens for a in arrivals] == [1, 2, 3, 4, 5, 1, 2]


def test_request_tells_the_policy_nothing_of_its_output_length() -> None:
    short, long = (
        next(workload(lengths=Shares([(TraceRow(None, 9, n), 1.0)])).requests(1.0, 1)) for n in (1, 900)
    )
    assert short.request == long.request
    assert short.num_output_tokens != long.num_output_tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": {"chat": 1.0}}, "class: 'chat' is not in the QoS book; allowed: interactive, batch"),
        ({"mix": {"batch": -1.0}}, "mix: .* are no weights"),
        ({"tenants": {"a": 0.0}}, "tenants: .* are no weights"),
        ({"low_share": 1.5}, "low_share: 1.5 is no share"),
    ],
)
def test_workload_that_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        workload(**changes)


def test_preset_lengths_are_loaded_by_name() -> None:
    assert len(load_lengths("azure-code")) > 300
