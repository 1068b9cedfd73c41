"""Traces, cases, searches, and the lab that runs them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from niyama.bench.reproduce import chunks
from niyama.bench.reproduce.cases import Case, Trace, find_traces, tiers
from niyama.bench.reproduce.lab import Lab
from niyama.bench.reproduce.page import percent
from niyama.bench.reproduce.registry import FIGURES, choose
from niyama.bench.reproduce.tasks import BestChunk, Capacity, Load, Steps, StepSizes
from niyama.bench.reproduce.variants import VARIANTS
from niyama.sim.capacity import Question, probe
from niyama.sim.run import Setup, simulate

CODE = find_traces(None)["azure-code"]


def case(policy: str, **fields: object) -> Case:
    return Case(trace=CODE, policy=policy, **fields)  # type: ignore[arg-type]


def test_traces_are_real_where_the_folder_has_them(tmp_path: Path) -> None:
    (tmp_path / "sharegpt_8k.csv").write_text(
        "num_prefill_tokens,num_decode_tokens\n100,10\n", encoding="utf-8"
    )
    traces = find_traces(tmp_path)
    assert [trace.is_real for trace in traces.values()] == [False, False, True]
    assert traces["sharegpt"].origin == "trace sharegpt_8k.csv"
    assert traces["azure-code"].origin == "built-in preset azure-code"
    workload = Case(trace=traces["sharegpt"], policy="edf").workload()
    assert [row.num_prefill_tokens for row in workload.lengths] == [100]


def test_interactive_pace_is_55_ms_on_sharegpt_alone() -> None:
    paces = [tiers(name).classes["interactive"].slo.tbt_s for name in ("sharegpt", "azure-code")]
    assert paces == [0.055, 0.05]


def test_stretch_makes_prompts_longer_and_answers_not() -> None:
    plain, longer = case("edf").workload().lengths, case("edf", stretch=1.5).workload().lengths
    for one, other in zip(plain, longer, strict=True):
        assert other.num_prefill_tokens == round(1.5 * one.num_prefill_tokens)
        assert other.num_decode_tokens == one.num_decode_tokens


@pytest.mark.parametrize("chunk", [None, 512])
def test_capacity_is_met_and_the_next_load_is_not(chunk: int | None) -> None:
    search = Capacity(case("fcfs", chunk=chunk), hours=0.1, screen_hours=0.02, resolution=20)
    found = search.run()
    step_qps = found.bound_qps / 20
    question = Question(setup=search.case.setup(), workload=search.case.workload(), duration_s=360.0)
    if chunk is None:
        assert probe(question, found.qps).is_met
    assert not probe(question, found.qps + step_qps).is_met
    assert found.qps <= search.case.policy_bound_qps()


def test_capacity_beyond_its_steps_is_not_searched() -> None:
    assert (
        case("fcfs", chunk=64).policy_bound_qps() < case("fcfs").policy_bound_qps() < case("fcfs").bound_qps()
    )
    assert case("niyama").policy_bound_qps() == case("niyama").bound_qps()


def test_best_chunk_is_no_worse_than_the_default() -> None:
    base = Capacity(case("edf"), hours=0.1, screen_hours=0.1, resolution=20)
    chunk = BestChunk(base).run()
    assert replace(base, case=case("edf", chunk=chunk)).run().qps >= base.run().qps


def test_load_reports_shares_that_agree() -> None:
    done = Load(case("fcfs", low_share=0.5), 6.0, 0.05, 60.0).run()
    assert done.num_requests == 1080
    assert 0 < done.late["all"] <= 1
    low, normal = done.late_by_importance["low"], done.late_by_importance["normal"]
    assert min(low, normal) <= done.late["all"] <= max(low, normal)
    assert len(done.timeline) in (3, 4)
    assert all(p50 <= p95 for p50, p95 in done.ttft_s.values())


def test_step_sizes_are_those_of_the_run_and_change_nothing() -> None:
    task = StepSizes(case("niyama"), 4.0, 0.02)
    steps = task.run()
    run = simulate(Setup(policy="niyama"), case("niyama").workload().requests(4.0, 288))
    assert steps.ended_at == list(run.replicas[0].ended_at)
    assert sum(steps.prefill_tokens) == sum(done.request.num_prompt_tokens for done in run.served)
    fixed = StepSizes(case("edf"), 4.0, 0.02).run()
    assert max(p + d for p, d in zip(fixed.prefill_tokens, fixed.decode_tokens, strict=True)) == 256


def test_idle_time_before_a_prefill_is_not_counted_as_its_time() -> None:
    steps = StepSizes(case("edf"), 0.2, 0.05).run()
    gaps_s = [b - a for a, b in pairwise(steps.ended_at)]
    assert all(took_s <= gap_s + 1e-9 for took_s, gap_s in zip(steps.durations_s[1:], gaps_s, strict=True))
    assert sum(steps.durations_s) < 0.8 * sum(gaps_s)
    idle = Steps(
        ended_at=[1.0, 101.0, 102.0],
        durations_s=[0.5, 0.5, 1.0],
        prefill_tokens=[100, 300, 0],
        decode_tokens=[0, 0, 2],
        late=0.0,
    )
    assert chunks._summary(idle)["prefill_tokens_per_busy_s"] == pytest.approx(400 / (0.5 + 0.5))


def test_ablation_switches_off_one_mechanism_each() -> None:
    late = {}
    for policy in ("edf+chunking", "edf+chunking+relegation", "niyama"):
        late[policy] = Load(case(policy), 15.0, 0.05).run()
    assert late["edf+chunking"].relegated == 0
    assert late["edf+chunking+relegation"].relegated > 0
    assert late["niyama"].late["all"] < late["edf+chunking"].late["all"]
    assert set(VARIANTS) >= {"edf+chunking", "edf+chunking+relegation"}


def test_static_alpha_reaches_the_policy() -> None:
    replica = case("paper", alpha_s=0.032).setup().replica(lambda done: None)
    assert replica.policy.alpha_s == 0.032  # type: ignore[attr-defined]


class Square(NamedTuple):
    number: int

    def run(self) -> int:
        return self.number**2


def test_lab_runs_equal_tasks_once_and_counts_them_for_the_first_figure() -> None:
    seen: list[tuple[int, int]] = []
    lab = Lab(progress=lambda done, known: seen.append((done, known)))

    async def both() -> list[list[int]]:
        return list(
            await asyncio.gather(
                lab.results("a", [Square(2), Square(3)]), lab.results("b", [Square(3), Square(4), Square(2)])
            )
        )

    assert asyncio.run(both()) == [[4, 9], [9, 16, 4]]
    assert [done for done, _ in seen] == [1, 2, 3]
    assert lab.cpu_s(["a", "b"]).keys() == {"a", "b"}


def test_choose_takes_names_aliases_and_all() -> None:
    assert [figure.name for figure in choose(["fig10", "fleet", "fleet"])] == ["fleet", "latency"]
    assert choose([]) == choose(["all"]) == choose(["late", "all"]) == list(FIGURES)
    with pytest.raises(ValueError, match=r"figure: 'fig99' is unknown; allowed: capacity, fidelity, fleet"):
        choose(["fig99"])


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.00001, "< 0.01 %"), (0.0123, "1.23 %"), (0.604, "60.4 %")]
)
def test_percent_is_never_0_for_what_is_not(share: float, text: str) -> None:
    assert percent(share) == text


def test_trace_origin_names_no_folder() -> None:
    assert Trace("azure-code", "Azure Code", "/a/b/azure_code_2023.csv").origin == "trace azure_code_2023.csv"
