"""Runs that do not count: done again, not for ever, and said wherever something comes from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.bench.scripted import KNEES, Machine, comparer, scripted_machine

from niyama.bench.compareresult import result_of
from niyama.bench.comparestore import StoreError

LATE = ("niyama", "steady", 1.3)
HELD = ("niyama", "knee", 1.1)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return scripted_machine(monkeypatch)


def test_an_invalid_run_is_done_again_at_a_fresh_server(machine: Machine, tmp_path: Path) -> None:
    machine.num_invalid[LATE] = 1
    done = comparer(tmp_path)
    done.run()
    assert machine.ran.count(LATE) == 2
    assert machine.served[-2:] == ["niyama", "niyama"], "the server may have been the cause"
    assert all(run["valid"] for run in result_of(done)["runs"])


def test_one_that_stays_invalid_is_taken_and_tried_again_by_the_next_command(
    machine: Machine, tmp_path: Path
) -> None:
    machine.num_invalid[LATE] = 3
    done = comparer(tmp_path, wants_knee=True)
    done.run()
    assert machine.ran.count(LATE) == 2
    found = {one["what"]: one["valid"] for one in result_of(done)["findings"]}
    assert not found["steady at 1.3: late, of vllm-fcfs's"]
    assert found["steady at 0.85: the latest class"]
    again = comparer(tmp_path, wants_knee=True)
    again.run()
    assert machine.ran.count(LATE) == 4
    assert all(one["valid"] for one in result_of(again)["findings"])


def test_a_knee_by_an_invalid_run_is_invalid(machine: Machine, tmp_path: Path) -> None:
    machine.num_invalid[HELD] = 2
    done = comparer(tmp_path, scenarios=[], wants_knee=True)
    done.run()
    assert machine.ran.count(HELD) == 2
    assert (done.knees["niyama"]["load"], done.knees["niyama"]["valid"]) == (1.1, False)
    assert done.knees["vllm-fcfs"]["valid"]
    assert [one["valid"] for one in result_of(done)["findings"]] == [False, False]


def test_a_search_that_took_another_way_leaves_nothing_in_the_next_one(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.num_invalid["niyama", "knee", 0.85] = 2
    machine.num_invalid["niyama", "knee", 0.4] = 2
    monkeypatch.setitem(KNEES, "niyama", 0.2)
    first = comparer(tmp_path, scenarios=[], wants_knee=True)
    first.run()
    assert first.knees["niyama"]["load"] < 0.4
    monkeypatch.setitem(KNEES, "niyama", 1.1)
    again = comparer(tmp_path, scenarios=[], wants_knee=True)
    again.run()
    assert (again.knees["niyama"]["load"], again.knees["niyama"]["valid"]) == (1.1, True)
    runs = result_of(again)["knee_runs"]
    assert 0.4 not in [run["load"] for run in runs if run["policy"] == "niyama"]
    assert (tmp_path / "runs" / "niyama" / "knee-0.400-0.json").exists()


def test_an_invalid_run_stands_for_no_other(machine: Machine, tmp_path: Path) -> None:
    machine.num_invalid["niyama", "knee", 0.85] = 2
    done = comparer(tmp_path, wants_knee=True)
    done.run()
    assert ("niyama", "steady", 0.85) in machine.ran


def test_a_chunk_is_not_chosen_by_a_run_that_does_not_count(machine: Machine, tmp_path: Path) -> None:
    machine.num_invalid["vllm-fcfs-512", "tune", 1.0] = 2
    done = comparer(tmp_path)
    done.run()
    assert done.best_chunk == {"vllm-fcfs": 256}


def test_load_1_is_measured_once_more_and_kept_with_its_flaw(machine: Machine, tmp_path: Path) -> None:
    machine.num_invalid["vllm-fcfs-512", "basis", 0.0] = 2
    comparer(tmp_path).run()
    assert machine.measured == ["vllm-fcfs-512"] * 2
    done = comparer(tmp_path)
    done.run()
    assert machine.measured == ["vllm-fcfs-512"] * 2, "all runs are at shares of it"
    result = result_of(done)
    assert not result["saturation_valid"]
    assert result["saturation_invalid_because"] == ["fell behind"]
    assert not any(one["valid"] for one in result["findings"])


def test_load_1_belongs_to_a_largest_chunk(machine: Machine, tmp_path: Path) -> None:
    comparer(tmp_path).run()
    comparer(tmp_path, chunks=[128, 512])._find_basis()
    with pytest.raises(StoreError) as refused:
        comparer(tmp_path, chunks=[256]).run()
    assert str(refused.value) == (
        f"--chunks: the largest is 256, but load 1 in {tmp_path} was measured with 512; "
        "allowed: 512 as the largest, or another folder"
    )
    path = tmp_path / "basis.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chunk"}))
    comparer(tmp_path, chunks=[256])._find_basis()


def test_kept_records_are_folders_for_replay(machine: Machine, tmp_path: Path) -> None:
    comparer(tmp_path, loads=[1.3], keeps_records=True).run()
    kept = tmp_path / "records" / "niyama"
    assert machine.records[-1] == kept / "steady-1.300-0" / "records.jsonl"
    words = machine.commands["niyama"]
    assert words[words.index("--decision-log") + 1] == str(kept / "decisions.jsonl")
    assert words[words.index("--step-log") + 1] == str(kept / "steps.jsonl")
    assert kept.is_dir()
    assert "--decision-log" not in machine.commands["vllm-fcfs-512"]
    comparer(tmp_path / "none", loads=[1.3]).run()
    assert machine.records[-1:] == [None]
    assert "--decision-log" not in machine.commands["niyama"]
