from __future__ import annotations

import json
from pathlib import Path

import pytest

from niyama.bench.reproduce import chunks
from niyama.bench.reproduce.registry import FIGURES
from niyama.cli import main


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["fig99", "--out", "x"], "figure: 'fig99' is unknown; allowed: capacity, "),
        (["chunks"], "--out: none is given"),
        (["chunks", "--out", "{file}"], "cannot make it"),
        (["chunks", "--out", "x", "--jobs", "0"], "--jobs: '0' is not allowed"),
        (
            ["chunks", "--out", "x", "--traces", "{empty}"],
            "has none of the traces; allowed: a folder with azure",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    paths = {"{file}": str(tmp_path / "file"), "{empty}": str(tmp_path / "empty"), "x": str(tmp_path / "x")}
    assert main(["reproduce", *(paths.get(word, word) for word in argv)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x" / "results.md").exists()


def test_list_names_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [figure.name for figure in FIGURES]


def test_one_figure_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chunks, "HOURS", 0.01)
    monkeypatch.setattr(chunks, "SHOWN_S", (5.0, 20.0))
    argv = ["reproduce", "chunks", "--quick", "--jobs", "1", "--out", str(tmp_path / "new"), "--json", "-"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["figures"]) == {"chunks"}
    assert result["cpu_s"]["chunks"] >= 0
    assert result["wall_s"] > 0
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["chunks.png", "results.json", "results.md"]
    kept = json.loads((tmp_path / "new" / "results.json").read_text(encoding="utf-8"))
    assert "wall_s" not in kept
    assert "QUICK RUN" in kept["figures"]["chunks"]["note"]
