from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from niyama.cli import main
from niyama.cli.run_length import run_length
from niyama.cli.simulation_options import add_options, make_setup, make_workload
from niyama.latency.calibrated import DECODE_KNOTS, PREFILL_KNOTS, StepTime
from niyama.latency.profilefile import Calibration


@pytest.mark.parametrize(
    ("words", "num_kv_tokens"),
    [
        ("", 425_000),
        ("--profile a100-80gb/llama-2-7b/tp2", 245_000),
        ("--profile h100-80gb/llama-3-70b/tp4", 445_000),
        ("--profile h100-80gb/llama-3-70b/tp4 --kv-tokens 1000", 1000),
    ],
)
def test_kv_tokens_are_what_the_profile_leaves_unless_given(words: str, num_kv_tokens: int) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    setup = make_setup(parser.parse_args(words.split()), "edf")
    assert setup.limits.num_kv_tokens == num_kv_tokens


def options(words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(words.split())


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        ("", (30_000, 32, 512)),
        ("--max-num-seqs 7", (30_000, 7, 512)),
        ("--max-num-batched-tokens 99 --kv-tokens 1000", (1000, 32, 99)),
    ],
)
def test_a_profile_file_brings_all_limits_of_its_server(
    words: str, limits: tuple[int, int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.json"
    step = StepTime(0.01, 0.0, (1e-5,) * (len(PREFILL_KNOTS) + 1), (1e-5,) * (len(DECODE_KNOTS) + 1), 0, 0, 0)
    engine = {"num_kv_tokens": 30_000, "max_num_seqs": 32, "max_num_batched_tokens": 512, "is_async": False}
    path.write_text(Calibration("mine", step, engine=engine).to_json())
    found = make_setup(options(f"--profile {path} {words}"), "edf").limits
    assert (found.num_kv_tokens, found.max_num_seqs, found.max_num_batched_tokens) == limits
    if words:
        return
    result = tmp_path / "r.json"
    assert main(f"simulate --qps 3 --requests 3 --profile {path} --json {result}".split()) == 0
    assert json.loads(result.read_text())["limits"] == {name: engine[name] for name in list(engine)[:3]}
    told = "a replica holds 30,000 tokens of KV and 32 running requests; a step has at most 512 tokens"
    assert told in capsys.readouterr().out


def test_limits_of_a_named_profile_are_the_usual_ones() -> None:
    limits = make_setup(options(""), "edf").limits
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (256, 8192)


@pytest.mark.parametrize(
    ("arrivals", "hours"),
    [
        ("poisson", 4),
        ("diurnal:0.8:3600", 4),
        ("diurnal:0.8:5400", 4.5),
        ("diurnal:0.8:86400", 24),
        ("square:1:3:1800", 4),
        ("square:1:3:9000", 5),
    ],
)
def test_usual_run_has_whole_periods_so_that_its_rate_is_the_asked_one(arrivals: str, hours: float) -> None:
    args = options(f"--arrivals {arrivals}")
    workload = make_workload(args)
    length = run_length(args, workload)
    assert length.duration_s == pytest.approx(3600 * hours)
    assert length.notes(workload, 0.5) == []
    last = max(arrival.request.arrived_at for arrival in workload.requests(0.5, length.size(0.5)))
    assert last == pytest.approx(3600 * hours, rel=0.05)


@pytest.mark.parametrize(
    ("words", "is_short"),
    [
        ("--hours 2", True),
        ("--hours 2.5", False),
        ("--requests 3600", True),
        ("--requests 4500", False),
    ],
)
def test_less_than_a_period_is_noted(words: str, is_short: bool) -> None:
    args = options(f"--arrivals square:1:3:4500 {words}")
    workload = make_workload(args)
    notes = run_length(args, workload).notes(workload, 0.5)
    said = "the run covers 7200 s, less than a period of the arrivals, 9000 s: the mean rate is not --qps"
    assert [note.startswith(said) for note in notes] == [True] * is_short


@pytest.mark.parametrize(
    "command", ["simulate --qps 9 --requests 20", "capacity --policies edf --requests 20 --resolution 2"]
)
def test_a_fleet_is_named_where_requests_are_counted(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "3 replicas behind slack-aware; requests/s are of all of them\na replica holds "
    assert main(f"{command} --replicas 3 --router slack-aware".split()) == 0
    assert told in capsys.readouterr().out
    assert main(command.split()) == 0
    assert "replica" not in capsys.readouterr().out.replace("a replica holds", "")
    assert main(f"{command} --router slack-aware".split()) == 0
    assert "one replica: slack-aware has nothing to choose\n" in capsys.readouterr().out
