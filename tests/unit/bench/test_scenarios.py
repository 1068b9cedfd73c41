from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from niyama.bench.planned import Lengths, make_plan
from niyama.bench.promises import rule_book, tight_book, with_low_twins
from niyama.bench.scenarios import MIN_RUN_S, OWN_KNEE, Job, Traffic, check_scenarios, plan_jobs
from niyama.qos import Importance, QosBook, QosClass, Slo
from niyama.workload.generate import load_lengths

TRAFFIC = Traffic(
    trace="azure-conv",
    rows=load_lengths("azure-conv"),
    lengths=Lengths(scale=0.25),
    book=with_low_twins(rule_book(0.04)),
    seed=3,
)


def requests(scenario: str, load: float, repeat: int = 0, seconds: float = 180.0) -> list[tuple[float, str]]:
    job = Job(scenario, load, repeat)
    plan = make_plan(TRAFFIC.workload(job, 10.0), 10.0 * load, seconds=seconds, lengths=TRAFFIC.lengths)
    return [(request.due_at, request.qos_class) for request in plan.requests]


def test_the_plan_has_every_load_and_repeat_once() -> None:
    jobs = plan_jobs(["steady", "square", "low", "alone", "flood"], [0.85, 1.3], 2)
    assert len(jobs) == len(set(jobs)) == 2 * (2 + 4) + 1, "throughput alone is compared three times"
    assert len({job.key for job in jobs}) == len(jobs)
    assert Job("square", 1.05, 1) in jobs
    assert [job.repeat for job in plan_jobs(["alone"], [], 4)] == [0, 1, 2, 3]
    assert plan_jobs(["backlog"], [1.0], 3) == [], "its load is found first"


def test_an_unknown_scenario_is_named() -> None:
    with pytest.raises(ValueError, match="'stedy' is unknown; allowed: steady"):
        check_scenarios(["stedy"])


def test_steady_runs_have_all_classes_but_the_twins_in_equal_shares() -> None:
    names = [name for _, name in requests("steady", 1.0)]
    shares = {name: names.count(name) / len(names) for name in set(names)}
    assert shares == pytest.approx({"interactive": 1 / 3, "batch": 1 / 3, "background": 1 / 3}, abs=0.05)
    assert len(names) / 180 == pytest.approx(10, rel=0.1)


def test_a_fifth_is_of_low_importance_in_the_scenario_for_it() -> None:
    names = [name for _, name in requests("low", 1.3)]
    assert sum(name.endswith("-low") for name in names) / len(names) == pytest.approx(0.2, abs=0.04)


def test_the_square_wave_has_its_mean_and_its_levels() -> None:
    level_s = TRAFFIC.run_s("square") / 6
    instants = [at for at, _ in requests("square", 1.05, seconds=TRAFFIC.run_s("square"))]
    counts = [sum(n * level_s <= at < (n + 1) * level_s for at in instants) for n in range(6)]
    assert sum(counts[0::2]) / (3 * level_s) == pytest.approx(6, rel=0.15)
    assert sum(counts[1::2]) / (3 * level_s) == pytest.approx(15, rel=0.15)


def test_the_flood_comes_on_top_of_the_others_in_order() -> None:
    seconds = TRAFFIC.run_s("flood")
    job = Job("flood", 0.85)
    plan = make_plan(TRAFFIC.workload(job, 10.0), 8.5, seconds=seconds, lengths=TRAFFIC.lengths)
    instants = [request.due_at for request in plan.requests]
    assert all(a <= b for a, b in pairwise(instants))
    flood = [request for request in plan.requests if request.id.startswith("flood")]
    others = [request for request in plan.requests if not request.id.startswith("flood")]
    assert len(others) / seconds == pytest.approx(7, rel=0.1)
    assert {request.qos_class for request in flood} == {"background"}
    assert seconds / 3 <= flood[0].due_at <= flood[-1].due_at <= seconds * (1 / 3 + 0.05)
    longest = max(request.num_prompt_tokens for request in others)
    assert all(request.num_prompt_tokens >= longest for request in flood)
    work = sum(r.num_prompt_tokens + r.num_output_tokens for r in flood)
    base = sum(r.num_prompt_tokens + r.num_output_tokens for r in others)
    assert work / base == pytest.approx(0.15 / 0.7, rel=0.25)


def test_interactive_requests_alone_are_those_somebody_reads() -> None:
    for scenario in (OWN_KNEE, "backlog"):
        assert {name for _, name in requests(scenario, 0.5)} == {"interactive"}
    assert TRAFFIC.mix("alone") == {"background": 1.0}


def test_loads_and_repeats_share_and_change_what_they_should() -> None:
    slow, fast = requests("steady", 0.5), requests("steady", 1.0)
    assert [name for _, name in slow] == [name for _, name in fast[: len(slow)]]
    assert slow[5][0] == pytest.approx(2 * fast[5][0])
    assert requests("steady", 1.0, repeat=1) != fast
    assert requests("steady", 1.0) == fast


def test_runs_last_three_times_the_longest_promise_that_occurs() -> None:
    assert TRAFFIC.run_s("steady") == 180.0
    assert TRAFFIC.run_s(OWN_KNEE) == MIN_RUN_S
    tight = Traffic(trace="t", rows=TRAFFIC.rows, lengths=Lengths(), book=tight_book())
    assert tight.run_s("steady") == 1800.0
    assert tight.run_s(OWN_KNEE) == MIN_RUN_S
    assert tight.run_s("backlog") == 1800.0, "the batch class that is kept waiting occurs as well"
    assert tight.run_s("alone") == 45.0, "nobody can be late"
    short = Traffic(trace="t", rows=TRAFFIC.rows, lengths=Lengths(), book=tight_book(), seconds=5)
    assert short.run_s("steady") == 5


def test_no_scenario_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="--scenario: empty; allowed: steady, square"):
        check_scenarios([])


@pytest.mark.parametrize("num_requests", [8, 2000])
def test_the_flood_is_within_the_number_of_requests(num_requests: int) -> None:
    workload = TRAFFIC.workload(Job("flood", 0.85), 10.0)
    found = [arrival.request for arrival in workload.requests(8.5, num_requests)]
    assert len(found) == num_requests
    flood = [request for request in found if request.request_id.startswith("flood")]
    assert bool(flood) is (num_requests == 2000), "it comes after a third of the run"


def test_a_fifth_is_of_low_importance_whatever_low_classes_the_book_has() -> None:
    classes = {
        "chat": QosClass("chat", Slo(ttft_s=2.0), Importance.HIGH),
        "summary": QosClass("summary", Slo(ttlt_s=60.0)),
        "night": QosClass("night", Slo(ttlt_s=600.0), Importance.LOW),
    }
    for names, low in (
        (["chat", "summary", "night"], {"night": 0.8, "chat-low": 0.2, "summary-low": 0.2}),
        (["chat", "summary"], {"chat-low": 0.2, "summary-low": 0.2}),
    ):
        book = with_low_twins(QosBook("chat", {name: classes[name] for name in names}))
        mix = dataclasses.replace(TRAFFIC, book=book).mix("low")
        assert sum(mix.values()) == pytest.approx(1.0)
        assert mix["chat"] == mix["summary"] == pytest.approx(0.4)
        of_low = {name: weight for name, weight in mix.items() if name not in ("chat", "summary")}
        assert of_low == pytest.approx({name: 0.2 * w / sum(low.values()) for name, w in low.items()})
    alone = dataclasses.replace(TRAFFIC, book=QosBook("night", {"night": classes["night"]}))
    assert list(alone.mix("low")) == ["night"]
