from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from niyama.cli import steps


def _run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    steps.add_parser(parser.add_subparsers())
    args = parser.parse_args(["steps", *arguments])
    result: int = args.run(args)
    return result


def _step(**changes: Any) -> dict[str, Any]:
    return {
        "duration_s": 0.010,
        "predicted_s": 0.009,
        "margin_s": 0.002,
        "num_prefill_tokens": 0,
        "num_decode_tokens": 4,
        "planned_tokens": 4,
        "realised_tokens": 4,
        "is_clean": True,
        "of_a_later_version": "x",
    } | changes


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "steps.jsonl"
    logged = [
        _step(),
        _step(
            duration_s=0.030,
            predicted_s=0.020,
            num_prefill_tokens=100,
            planned_tokens=104,
            realised_tokens=90,
        ),
        _step(duration_s=0.060, predicted_s=0.070, num_prefill_tokens=500),
        _step(duration_s=9.0, is_clean=False),
    ]
    path.write_text("\n".join(json.dumps(step) for step in logged) + "\n\n")
    return path


def test_steps_json_gives_the_figures_per_regime(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(str(log), "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["steps"], report["unclean_steps"]) == (4, 1)
    every = report["regimes"]["all"]
    assert every["steps"] == 3
    assert every["mean_step_s"] == pytest.approx(0.1 / 3)
    assert every["mean_abs_error_share"] == pytest.approx((0.001 + 0.010 + 0.010) / 0.1)
    assert every["late_share"] == pytest.approx(1 / 3)
    assert report["regimes"]["decode only"]["late_share"] == 0
    assert report["regimes"]["chunk <= 256"]["late_share"] == 1
    assert report["regimes"]["chunk > 256"]["mean_abs_error_share"] == pytest.approx(1 / 6)
    assert report["plan"] == {"planned_tokens": 116, "realised_tokens": 102, "short_steps": 1}


def test_steps_table_and_json_file_are_both_written(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(str(log), "--json", str(tmp_path / "out.json")) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["all", "3", "33.33", "ms", "21.0%", "33.3%", "6.1%"]
    assert json.loads((tmp_path / "out.json").read_text())["steps"] == 4


def test_steps_empty_log_has_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jsonl").touch()
    assert _run(str(tmp_path / "none.jsonl"), "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["regimes"]["all"]["mean_step_s"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "a step is a JSON object"),
        (json.dumps(_step(duration_s="slow")), "duration_s: 'slow': give a finite number >= 0"),
        (json.dumps(_step(margin_s=float("nan"))), "margin_s: nan: give"),
        (json.dumps(_step(num_prefill_tokens=-1)), "num_prefill_tokens: -1: give"),
        (json.dumps(_step(planned_tokens="many")), "planned_tokens: 'many': give"),
        (json.dumps({"duration_s": 1}), "predicted_s: None: give"),
    ],
)
def test_steps_bad_line_is_one_error_with_file_and_line(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(_step()) + "\n" + line + "\n")
    assert _run(str(path)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path}:2: ")
    assert message in error
    assert error.count("\n") == 1


def test_steps_torn_last_line_is_left_out(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text(log.read_text() + json.dumps(_step())[:20])
    assert _run(str(log), "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4


def test_steps_missing_file_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(str(tmp_path / "nowhere.jsonl")) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'nowhere.jsonl'}: No such file or directory\n"
