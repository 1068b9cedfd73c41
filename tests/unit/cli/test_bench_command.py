from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.unit.bench.sseserver import sse_server

from niyama.bench.records import read_records
from niyama.cli import main

QUICK = ("--qps", "100", "--requests", "12", "--scale-lengths", "0.02", "--warmup", "1", "--max-lag", "60000")
CLASSES = [
    {"name": "fast", "importance": "high", "slo": {"ttft_s": 60.0, "tbt_s": None, "ttlt_s": None}},
    {"name": "slow", "importance": "low", "slo": {"ttft_s": None, "tbt_s": None, "ttlt_s": 600.0}},
]


def test_run_prints_a_table_and_leaves_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "b"
    with sse_server() as server:
        assert main(["bench", "--url", server.url, "--out", str(out), *QUICK]) == 0
    assert "LATE, by criterion" in capsys.readouterr().out
    header, records = read_records(out / "records.jsonl")
    assert len(records) == 12
    assert header.workload["arrivals"] == "poisson"
    result = json.loads((out / "result.json").read_text())
    assert result["requests"] == 12
    assert (out / "report.html").read_text().startswith("<!doctype html>")


def test_classes_are_the_servers_own_and_requests_ask_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    with sse_server(classes=CLASSES) as server:
        assert main(["bench", "--url", f"{server.url}/v1", "--endpoint", "chat", "--json", "-", *QUICK]) == 0
        asked = {body["vllm_xargs"]["niyama_class"] for body in server.seen if "vllm_xargs" in body}
    result = json.loads(capsys.readouterr().out)
    assert asked == {"fast", "slow"}
    assert set(result["late_share"]) == {"all", "fast", "slow"}
    assert result["late_share_by_importance"] == {"high": 0.0, "low": 0.0}
    assert result["target"]["policy"] == "edf"


def test_recorded_trace_keeps_its_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n5.0,9,2\n5.1,8,1\n5.3,7,3\n")
    words = ["--trace", str(trace), "--arrivals", "recorded", "--out", str(tmp_path), "--max-lag", "60000"]
    with sse_server() as server:
        assert main(["bench", "--url", server.url, *words]) == 0
    _, records = read_records(tmp_path / "records.jsonl")
    assert [record.due_at for record in records] == pytest.approx([0.0, 0.1, 0.3])
    assert [(r.num_prompt_tokens, r.num_output_tokens) for r in records] == [(9, 2), (8, 1), (7, 3)]


def test_run_that_does_not_count_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody sends within a nanosecond of the instant."""
    words = [word if word != "60000" else "1e-6" for word in QUICK]
    with sse_server() as server:
        assert main(["bench", "--url", server.url, *words]) == 1
    assert "INVALID: the client fell behind" in capsys.readouterr().out


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with sse_server(key="secret") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        assert main(["bench", "--url", server.url, *QUICK]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "localhost:8000"], "--url: 'localhost:8000' is no address; allowed: http://HOST:PORT"),
        (["--qps", "0"], "--qps: 0 is out of range; allowed: a number > 0"),
        (["--qps", "nan"], "--qps: nan is out of range"),
        (["--qps", "1", "--load", "1"], "--qps and --load: both are given; allowed: one of them"),
        (["--qps", "1", "--requests", "1", "--seconds", "1"], "--requests and --seconds: both are given"),
        ([], "--qps: not given; allowed: --qps, --load"),
        (["--qps", "1", "--warmup", "-1"], "--warmup: -1 is out of range; allowed: a number >= 0"),
        (["--qps", "1", "--criterion", "mild"], "--criterion: 'mild' is unknown; allowed: strict"),
        (["--qps", "1", "--endpoint", "talk"], "--endpoint: 'talk' is unknown; allowed: completions, chat"),
        (["--qps", "1", "--carrier", "pigeon"], "--carrier: 'pigeon' is unknown; allowed: xargs"),
        (["--qps", "1", "--mix", "gold=1"], "'gold' is not in the QoS book"),
        (["--qps", "1", "--trace", "none.csv"], "none.csv: no such trace"),
        (["--qps", "1", "--qos", "none.yaml"], "none.yaml: cannot read the QoS file"),
        (["--arrivals", "recorded"], "--arrivals: the trace has no recorded arrivals"),
        (["--qps", "1", "--model", "big"], "model 'big' is not served; allowed: tiny"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with sse_server() as server:
        assert main(["bench", "--url", server.url, *words]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert said in err


def test_nobody_at_the_address_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--url", "http://127.0.0.1:9", "--qps", "1"]) == 2
    err = capsys.readouterr().err
    assert "http://127.0.0.1:9" in err
    assert "allowed: the address of a server that is up" in err
    assert err.count("\n") == 1


def test_folder_that_cannot_be_made_is_named_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["bench", "--url", "http://127.0.0.1:9", "--qps", "1", "--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--out"])
def test_output_that_cannot_be_written_is_named_before_the_run(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = {"--json": tmp_path, "--out": tmp_path / "out"}[option]
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with sse_server() as server:
        assert main(["bench", "--url", server.url, option, str(target), *QUICK]) == 2
        assert not server.seen
    err = capsys.readouterr().err
    assert err.startswith(f"niyama: error: {option}: {target}")
    assert err.endswith(" cannot be written: it is a folder\n")


def test_json_may_lie_in_the_folder_that_is_made(tmp_path: Path) -> None:
    out = tmp_path / "new"
    with sse_server() as server:
        words = ["--out", str(out), "--json", str(out / "also.json")]
        assert main(["bench", "--url", server.url, *words, *QUICK]) == 0
    assert (out / "also.json").read_text() == (out / "result.json").read_text()


@pytest.mark.parametrize("missing", ["aiohttp", "matplotlib"])
def test_missing_extra_is_named_before_the_run(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with sse_server() as server:
        assert main(["bench", "--url", server.url, "--out", str(tmp_path), *QUICK]) == 2
        assert not server.seen
    err = capsys.readouterr().err
    assert f"needs {missing}: pip install 'niyama[bench]'" in err
    assert err.count("\n") == 1
