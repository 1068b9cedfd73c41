"""What is run, on which server, and what is not run again; the runs themselves are scripted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.bench.comparisons import row
from tests.unit.bench.scripted import Machine, comparer, scripted_machine

from niyama.bench.compare import outcome
from niyama.bench.compareresult import result_of
from niyama.bench.contestants import Contestant
from niyama.bench.expected import ExpectedKnees
from niyama.qos import paper_book


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return scripted_machine(monkeypatch)


def test_stock_gets_its_best_chunk_and_servers_take_turns(machine: Machine, tmp_path: Path) -> None:
    done = comparer(tmp_path, repeats=2)
    done.run()
    assert done.best_chunk == {"vllm-fcfs": 512}
    assert machine.running == 0
    assert [job for job in machine.ran if job[1] == "steady"] == [
        (key, "steady", load) for load in (0.85, 1.3, 0.85, 1.3) for key in ("vllm-fcfs-512", "niyama")
    ]
    assert machine.served == ["vllm-fcfs-512", "vllm-fcfs-256", *["vllm-fcfs-512", "niyama"] * 4]
    found = result_of(done)
    assert {run["chunk"] for run in found["runs"]} == {512, None}
    assert len(found["runs"]) == 8
    assert len(found["tuning"]) == 2


def test_what_is_done_is_not_done_again(machine: Machine, tmp_path: Path) -> None:
    comparer(tmp_path, scenarios=["steady", "backlog"], wants_knee=True).run()
    machine.served.clear()
    machine.ran.clear()
    again = comparer(tmp_path, scenarios=["steady", "backlog"], wants_knee=True)
    again.run()
    assert (machine.served, machine.ran) == ([], [])
    assert again.knees["niyama"]["load"] == 1.1
    (tmp_path / "runs" / "niyama" / "steady-1.300-0.json").unlink()
    comparer(tmp_path, scenarios=["steady", "backlog"], wants_knee=True).run()
    assert machine.served == ["niyama"]
    assert machine.ran == [("niyama", "steady", 1.3)]


def test_a_later_run_that_goes_otherwise_does_not_search_the_knee_of_stock_again(
    machine: Machine, tmp_path: Path
) -> None:
    comparer(tmp_path, wants_knee=True).run()
    path = tmp_path / "runs" / "vllm-fcfs-512" / "steady-0.850-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"late_share": {"all": 0.0, "a": 0.0}}))
    machine.ran.clear()
    again = comparer(tmp_path, wants_knee=True)
    again.run()
    assert machine.ran == []
    assert again.knees["vllm-fcfs"]["load"] == 0.7


def test_where_throughput_counts_stock_has_its_largest_chunk_and_all_take_turns(
    machine: Machine, tmp_path: Path
) -> None:
    comparer(tmp_path, scenarios=["alone"], chunks=[256, 512, 1024]).run()
    alone = [key for key, scenario, _ in machine.ran if scenario == "alone"]
    assert alone == ["vllm-fcfs-1024", "niyama"] * 3


def test_a_knee_of_stock_is_that_of_its_best_chunk(machine: Machine, tmp_path: Path) -> None:
    done = comparer(tmp_path, scenarios=[], wants_knee=True)
    done.run()
    assert done.knees["vllm-fcfs"] == {"load": 0.7, "qps": pytest.approx(7.0), "chunk": 512, "valid": True}
    assert done.knees["niyama"] == {"load": 1.1, "qps": pytest.approx(11.0), "chunk": None, "valid": True}
    assert done.best_chunk == {"vllm-fcfs": 512}, "the chunk with the highest knee"
    assert not [job for job in machine.ran if job[1] == "tune"]
    # The second chunk is only searched above the first one's knee.
    assert min(load for key, _, load in machine.ran if key == "vllm-fcfs-512") == pytest.approx(0.65)


def test_knees_are_searched_in_turn(machine: Machine, tmp_path: Path) -> None:
    comparer(tmp_path, scenarios=[], wants_knee=True).run()
    assert [key for key, *_ in machine.ran[:6]] == ["vllm-fcfs-256", "niyama"] * 3
    assert machine.served[1:7] == ["vllm-fcfs-256", "niyama"] * 3


def test_knees_are_searched_from_where_they_are_expected(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulated(_: ExpectedKnees, contestant: Contestant, scenario: str) -> float | None:
        return {"vllm-fcfs-256": 0.5, "vllm-fcfs-512": 0.65, "niyama": 1.1}[contestant.key]

    monkeypatch.setattr(ExpectedKnees, "knee", simulated)
    done = comparer(tmp_path, scenarios=[], wants_knee=True)
    done.run()
    assert {name: knee["load"] for name, knee in done.knees.items()} == {"vllm-fcfs": 0.7, "niyama": 1.1}
    assert list(done.knees) == ["vllm-fcfs", "niyama"], "in their order, whoever's search ends first"
    # The likeliest chunk searches, the other one is tried above its knee.
    assert [load for key, _, load in machine.ran if key == "vllm-fcfs-512"] == [0.65, 0.7, 0.8, 0.75]
    assert [load for key, _, load in machine.ran if key == "vllm-fcfs-256"] == [0.75]
    assert [load for key, _, load in machine.ran if key == "niyama"] == [1.1, 1.15]


def test_runs_that_were_sent_the_same_are_not_repeated(machine: Machine, tmp_path: Path) -> None:
    done = comparer(tmp_path, wants_knee=True)
    done.run()
    assert done.knees["niyama"]["load"] == 1.1
    assert ("niyama", "knee", 0.85) in machine.ran
    assert ("niyama", "steady", 0.85) not in machine.ran
    assert (tmp_path / "runs" / "niyama" / "steady-0.850-0.json").exists()
    comparer(tmp_path, loads=[1.1]).run()
    assert ("niyama", "steady", 1.1) not in machine.ran
    assert (tmp_path / "runs" / "niyama" / "steady-1.100-0.json").exists()


def test_a_run_that_ended_early_stands_for_no_whole_one(machine: Machine, tmp_path: Path) -> None:
    done = comparer(tmp_path, scenarios=[], wants_knee=True)
    done.run()
    path = tmp_path / "runs" / "niyama" / "knee-1.100-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settled_by": "late"}))
    machine.ran.clear()
    comparer(tmp_path, loads=[1.1]).run()
    assert ("niyama", "steady", 1.1) in machine.ran


def test_the_backlog_runs_at_a_share_of_the_own_knee(machine: Machine, tmp_path: Path) -> None:
    comparer(tmp_path, scenarios=["backlog"]).run()
    backlog = [job for job in machine.ran if job[1] == "backlog"]
    assert backlog == [("vllm-fcfs-512", "backlog", 0.63), ("niyama", "backlog", 0.99)]


def test_promises_follow_the_measured_step_unless_they_are_given(machine: Machine, tmp_path: Path) -> None:
    ruled = comparer(tmp_path / "rule")
    ruled.run()
    assert ruled.traffic.book.classes["interactive"].slo.tbt_s == pytest.approx(0.1)
    given = comparer(tmp_path / "given", book=paper_book())
    given.run()
    assert given.traffic.book.classes["interactive"].slo.tbt_s == 0.05
    assert given.basis["step_s"] is None
    assert "interactive-low" in (tmp_path / "given" / "qos.yaml").read_text()


def test_what_a_run_showed_is_told_with_its_latest_class() -> None:
    late = {"a": 0.04, "b": 0.0}
    assert outcome(row("niyama", late=late)) == "2.0% late, 4.0% of a"
    assert outcome(row("niyama", "alone")) == "100 tokens/s"
    ended = row("niyama", late={"a": 0.0}, settled_by="12 late requests of class a")
    assert outcome(ended) == "ended early, 12 late requests of class a", "none of them has an answer"
