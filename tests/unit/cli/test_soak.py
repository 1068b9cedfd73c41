from __future__ import annotations

import pytest

from niyama.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "--minutes: 0 is no time; allowed: minutes > 0"),
        (["--minutes", "nan"], "--minutes: nan is no time; allowed: minutes > 0"),
        (["--qps", "-1"], "--qps: -1 is not a rate; allowed: auto, or clients per second > 0"),
        (["--qps", "many"], "--qps: many is not a rate; allowed: auto, or clients per second > 0"),
        (["--model", "no/such/model"], "MODEL: no/such/model does not exist"),
        (["--json", "/no/such/folder/x"], "--json: /no/such/folder/x cannot be written: there is no folder"),
        (["--log", "/no/such/folder/x"], "--log: /no/such/folder/x cannot be written: there is no folder"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"niyama: error: {message}")
    assert len(error.splitlines()) == 1
