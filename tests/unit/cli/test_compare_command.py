from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from niyama.cli import UsageError, compare, main
from niyama.cli.compare import make_comparison, settings_of

A100 = "a100-80gb/llama-3-8b/tp1"


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    compare.add_parser(parser.add_subparsers())
    return parser.parse_args(["compare", "--out", "x", *argv])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--policies", "vllm"], "--policies: 'vllm' is unknown; allowed: vllm-fcfs"),
        (["--policies", "edf,edf"], "--policies: edf,edf names one twice"),
        (["--scenario", "x"], "--scenario: 'x' is unknown; allowed: steady"),
        (["--load", "0.5,none"], "--load: 'none' is out of range"),
        (["--load", ","], "--load: empty"),
        (["--chunks", "-1"], "--chunks: '-1' is out of range"),
        (["--chunks", "128,256"], "--chunks: the largest is 256, but the SLO rule measures a step of 272"),
        (["--seconds", "0"], "--seconds: 0 is out of range"),
        (["--repeats", "0"], "--repeats: 0 is out of range"),
        (["--scale-lengths", "-2"], "--scale-lengths: -2 is out of range"),
        (["--book", "loose"], "--book: 'loose' is unknown; allowed: paper, tight"),
        (["--book", "tight", "--qos", "x.yaml"], "--qos and --book: both are given"),
        (["--emulate", "b200"], "--emulate: 'b200' is unknown; allowed: "),
        (["--speedup", "2"], "--speedup: means nothing alone"),
        (["--trace", "missing.csv"], "missing.csv"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("aiohttp")
    assert main(["compare", "--out", str(tmp_path / "out"), *argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("niyama: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "out").exists(), "nothing is made for input that is refused"


@pytest.mark.parametrize(
    ("chunks", "said"), [("0.5,256.7", "'0.5' is out of range"), ("0", "'0'"), (",", "empty")]
)
def test_chunks_are_whole_numbers(chunks: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"^--chunks: {said}.*; allowed: whole numbers >= 1, as in 256,512$"):
        make_comparison(parsed("--chunks", chunks))


def test_json_that_cannot_be_written_is_named_before_all_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("aiohttp")
    words = ["--out", str(tmp_path / "out"), "--json", str(tmp_path), "--load", "none"]
    assert main(["compare", *words]) == 2
    assert f"--json: {tmp_path} cannot be written: it is a folder" in capsys.readouterr().err
    words[3] = str(tmp_path / "out" / "also.json")
    assert main(["compare", *words]) == 2
    assert "--load: 'none'" in capsys.readouterr().err, "a file in the folder that is made is no trouble"


def test_the_demo_model_is_judged_by_the_rule_and_the_emulated_device_by_the_paper() -> None:
    demo = make_comparison(parsed())
    assert demo.book is None
    assert (demo.traffic.trace, demo.traffic.lengths.scale) == ("azure-conv", 0.25)
    emulated = make_comparison(parsed("--emulate", A100, "--load", "1.3"))
    assert emulated.book is not None
    assert emulated.book.classes["background"].slo.ttlt_s == 1800
    assert (emulated.traffic.trace, emulated.traffic.lengths.scale) == ("azure-code", 1.0)
    assert emulated.loads == [1.3]
    tight = make_comparison(parsed("--emulate", A100, "--book", "tight"))
    assert tight.book is not None
    assert tight.book.classes["assistant"].slo.tbt_s == 0.1


def test_a_closed_loop_lasts_long_enough_for_the_device() -> None:
    assert make_comparison(parsed()).traffic.closed_s == 45
    assert make_comparison(parsed("--emulate", A100)).traffic.closed_s == 45
    assert make_comparison(parsed("--emulate", A100, "--speedup", "2")).traffic.closed_s == 180
    assert make_comparison(parsed("--saturation-seconds", "7")).traffic.closed_s == 7


def test_all_scenarios_and_chunks() -> None:
    what = make_comparison(parsed("--scenario", "all", "--chunks", "256,1024"))
    assert list(what.scenarios) == ["steady", "square", "alone", "flood", "backlog", "low"]
    assert list(what.chunks) == [256, 1024]


def test_what_sets_a_folder_apart_is_what_changes_a_run() -> None:
    base = settings_of(make_comparison(parsed()))
    assert settings_of(make_comparison(parsed("--load", "0.5", "--knee", "--repeats", "3"))) == base
    for argv in (["--seed", "9"], ["--seconds", "5"], ["--emulate", A100], ["--trace", "sharegpt"]):
        assert settings_of(make_comparison(parsed(*argv))) != base
