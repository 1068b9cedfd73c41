from __future__ import annotations

import copy

import pytest
from tests.unit.bench.recorded import arrivals, record

from niyama.bench.parity import check_parity
from niyama.scheduling.registry import POLICIES


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_recorded_plan_is_made_again(policy: str) -> None:
    run = record(arrivals(80, 9.0), policy)
    found = check_parity(run.calls)
    assert found.num_plans == found.num_steps == len(run.log.steps) > 200
    assert found.num_same == found.num_plans
    assert (found.differences, found.num_unplanned) == ([], 0)


def test_what_the_policy_was_not_told_shows() -> None:
    """A request less, and the decisions cannot be the same."""
    calls = list(record(arrivals(60, 9.0)).calls)
    gone = next(number for number, call in enumerate(calls) if number > 100 and call["call"] == "arrive")
    name = calls[gone]["request"]["request_id"]
    del calls[gone]
    found = check_parity(calls)
    assert found.num_same < found.num_plans
    assert found.differences[0]["call"] >= gone
    assert any(name in str(difference["fields"]) for difference in found.differences)


def test_one_changed_plan_is_the_one_that_differs() -> None:
    calls = copy.deepcopy(record(arrivals(40, 9.0)).calls)
    number = [n for n, call in enumerate(calls) if call["call"] == "plan" and call["plan"]["chunks"]][20]
    made = calls[number]["plan"]["budget"]
    calls[number]["plan"]["budget"] += 1
    found = check_parity(calls)
    assert found.num_plans - found.num_same == 1
    assert found.differences == [{"call": number, "fields": {"budget": {"recorded": made + 1, "made": made}}}]


def test_learned_durations_are_part_of_what_decides() -> None:
    calls = copy.deepcopy(record(arrivals(40, 9.0)).calls)
    for call in calls:
        if call["call"] == "observe":
            call["ended_at"] = call["started_at"] + 1.5 * (call["ended_at"] - call["started_at"])
    found = check_parity(calls)
    assert found.num_same < found.num_plans / 2


def test_servers_of_one_log_are_each_made_again_from_their_own_start() -> None:
    """The first is killed between a plan and its launch."""
    one, other = record(arrivals(40, 9.0), "edf").calls, record(arrivals(40, 9.0)).calls
    plan = [n for n, call in enumerate(one) if call["call"] == "plan"][-1]
    vllms_own = {**next(call for call in other if call["call"] == "begin"), "prefills": []}
    found = check_parity([*one[: plan + 1], *other[:2], vllms_own])
    assert (found.num_plans, found.num_same) == (found.num_steps, found.num_plans)
    assert found.num_unplanned == 1
    assert check_parity([*one[: plan + 1], *other]).num_same > found.num_same


def test_causes_and_unplanned_steps_are_counted() -> None:
    calls = list(record(arrivals(30, 9.0)).calls)
    plan = next(n for n, call in enumerate(calls) if call["call"] == "plan")
    begin = next(n for n, call in enumerate(calls) if call["call"] == "begin")
    calls.insert(begin + 1, {"call": "realised", "causes": {"cache_hit": 2, "not_started": 1}})
    del calls[plan]
    found = check_parity(calls).to_mapping()
    assert found["realised_otherwise_by_cause"] == {"cache_hit": 2, "not_started": 1}
    assert (found["steps_realised_otherwise"], found["steps_unplanned"]) == (1, 1)
    assert found["plans_different"] == 0
