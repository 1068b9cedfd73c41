from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from niyama.cli.qos import add_parser
from niyama.qosfile import book_from_mapping, load_book

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "qos.yaml")


def run(*args: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    namespace = parser.parse_args(["qos", *args])
    code = namespace.run(namespace)
    assert isinstance(code, int)
    return code


def test_check_of_a_good_file_prints_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", EXAMPLE) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert ["chat", "2s", "50ms", "-", "high", "default"] in rows
    assert ["overnight", "-", "-", "8h", "low"] in rows
    assert ["flex", "overnight"] in rows
    assert ["auto", "chat", "(default)"] in rows
    assert ["gold", "chat"] in rows
    assert ["acme", "2", "chat,", "summarize"] in rows
    assert "SLOs from clients: at least TTFT 500ms, TBT 20ms, TTLT 5s" in out
    assert err == ""


def test_check_with_json_writes_the_book(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "book.json"
    assert run("check", EXAMPLE, "--json", str(file)) == 0
    assert "CLASS" in capsys.readouterr().out
    assert run("check", EXAMPLE, "--json", "-") == 0
    on_stdout = json.loads(capsys.readouterr().out)
    assert on_stdout == json.loads(file.read_text())
    assert book_from_mapping(on_stdout) == load_book(EXAMPLE)


def test_check_of_a_bad_file_prints_one_line_and_returns_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "qos.yaml"
    file.write_text("default: chat\nclasses:\n  chat: {ttft: 6 sec}\n")
    assert run("check", str(file)) == 2
    out, err = capsys.readouterr()
    allowed = "allowed: a number with ms, s, min or h, e.g. 6s"
    assert (out, err) == ("", f"{file}:3: classes.chat.ttft: '6 sec' is not a duration; {allowed}\n")


def test_check_that_cannot_write_prints_one_line_and_returns_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", EXAMPLE, "--json", str(tmp_path)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"--json {tmp_path}: cannot write: Is a directory\n"


def test_check_shows_a_book_that_refuses_client_slos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "qos.yaml"
    file.write_text("default: a\nclasses: {a: {ttlt: 1s}}\nclient_slos: {allow: false}\n")
    assert run("check", str(file)) == 0
    assert "SLOs from clients: refused" in capsys.readouterr().out
