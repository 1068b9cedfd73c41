from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from niyama.cli import main
from niyama.qos import paper_book
from niyama.scheduling.baselines import EdfPolicy, FcfsPolicy
from niyama.sim.fleet import ROUTERS
from niyama.sim.report import gaps, report
from niyama.sim.run import Setup, simulate
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Workload, load_lengths

WORKLOAD = Workload(
    name="azure-code", lengths=load_lengths("azure-code"), book=paper_book(), arrivals=poisson
)


def test_same_seed_gives_the_same_bytes() -> None:
    def once() -> str:
        run = simulate(Setup(policy="niyama"), WORKLOAD.requests(4.5, 400))
        return json.dumps(report(run, policy="niyama", qps=4.5, criterion="strict"))

    assert once() == once()


def test_every_request_is_served_once_by_any_fleet() -> None:
    for name, router in ROUTERS.items():
        setup = Setup(policy="edf", num_replicas=3, router=router)
        run = simulate(setup, WORKLOAD.requests(9.0, 200))
        assert Counter(done.request.request_id for done in run.served) == Counter(f"r{n}" for n in range(200))
        assert name == "slack-aware" or all(len(replica.ended_at) for replica in run.replicas)


def test_least_loaded_router_avoids_a_busy_replica() -> None:
    waits = []
    for name in ("round-robin", "least-loaded"):
        setup = Setup(policy="fcfs", num_replicas=4, router=ROUTERS[name])
        served = simulate(setup, WORKLOAD.requests(9.0, 600)).served
        waits.append(sum(done.first_at - done.request.arrived_at for done in served))
    assert waits[1] < waits[0]


def test_gaps_are_those_between_the_tokens() -> None:
    run = simulate(Setup(policy="fcfs"), WORKLOAD.requests(2.0, 60))
    for name in ("interactive", "batch"):
        values, counts = gaps(run, name)
        tokens = [done for done in run.served if done.request.qos_class == name]
        assert counts.sum() == sum(done.num_tokens - 1 for done in tokens)
        spans_s = sum(done.finished_at - done.first_at for done in tokens)
        assert float(np.dot(values, counts)) == pytest.approx(spans_s)


def test_report_of_nothing_late_says_so() -> None:
    result = report(
        simulate(Setup(policy="edf"), WORKLOAD.requests(1.0, 50)), policy="edf", qps=1.0, criterion="strict"
    )
    assert result["late_share"] == {"all": 0.0, "background": 0.0, "batch": 0.0, "interactive": 0.0}
    assert result["goodput_rps"] == pytest.approx(50 / result["simulated_s"])
    assert result["requests"] == 50


def test_simulate_command_writes_the_promised_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--qps", "3", "--requests", "40", "--policy", "edf", "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    head = {"policy", "qps", "requests", "steps", "simulated_s", "wall_s", "goodput_rps", "relegated_share"}
    shares = {"late_share", "late_share_by_criterion"}
    assert set(result) >= head | shares | {"ttft_s", "tbt_s", "ttlt_s"}
    assert set(result["tbt_s"]["batch"]) == {"p50", "p95", "p99"}


def test_simulate_command_shows_the_bound_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    words = "simulate --qps 9 --requests 60 --low-share 0.3 --max-num-seqs 16 --bound --json"
    assert main([*words.split(), str(target)]) == 0
    result = json.loads(target.read_text())
    assert set(result["late_share_bound"]) == {"all", "normal", "low"}
    assert 0 <= result["late_share_bound"]["all"] <= result["late_share"]["all"]
    assert "late under any policy, at least: 0.00% of all" in capsys.readouterr().out


def test_simulate_command_shows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--qps", "3", "--requests", "40", "--check"]) == 0
    assert "interactive" in capsys.readouterr().out


def test_simulate_command_says_what_a_short_run_cannot_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--qps", "3", "--requests", "40"]) == 0
    note = "requests arrived for 13 s, the longest promise is 1800 s; an overloaded server needs about"
    assert f"\n\nnote: {note}" in capsys.readouterr().out
    words = "simulate --qps 0.01 --hours 1.6 --mix background=1 --json -"
    assert main(words.split()) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == []


def test_simulate_command_refuses_two_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--qps", "3", "--requests", "40", "--hours", "1"]) == 2
    assert "--requests and --hours: both are given; allowed: one of them" in capsys.readouterr().err


def test_simulate_command_takes_a_trace_file_with_its_arrivals(tmp_path: Path) -> None:
    trace, target = tmp_path / "t.csv", tmp_path / "out.json"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens,class\n0,9,2,batch\n1,9,2,batch\n")
    words = f"simulate --trace {trace} --arrivals recorded --qps 1 --requests 4 --json {target}"
    assert main(words.split()) == 0
    assert set(json.loads(target.read_text())["late_share"]) == {"all", "batch"}


@pytest.mark.parametrize("qps", ["0", "-1", "nan", "inf", "1e12", "1e-300"])
def test_simulate_command_refuses_a_rate_that_is_none(qps: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", f"--qps={qps}"]) == 2
    assert "is not a rate; allowed: 0.0001 to 100000 requests per second" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["niyama", "edf"])
def test_simulate_command_refuses_a_chunk_that_is_none(
    policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--qps", "1", "--policy", policy, "--chunk=-5"]) == 2
    assert "--chunk: -5 is not a chunk; allowed: a whole number of tokens >= 1" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["simulate --qps 3", "capacity", "plan --qps 3"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [("no/x.json", "there is no folder"), ("", "it is a folder"), ("x" * 300, "cannot be written")],
)
def test_result_that_could_not_be_written_is_refused_before_the_run(
    verb: str, name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A run of this length does not end while anybody waits.
    assert main([*verb.split(), "--hours", "8000", "--json", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("niyama: error: --json")
    assert reason in error
    assert error.count("\n") == 1


def test_factory_makes_the_policy_in_place_of_the_registry() -> None:
    made = [
        simulate(Setup(policy=name, factory=factory, chunk=512), WORKLOAD.requests(3.0, 100)).served
        for name, factory in (("fcfs", None), ("mine", FcfsPolicy), ("mine", EdfPolicy))
    ]
    assert made[0] == made[1] != made[2]
