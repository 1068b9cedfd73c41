from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from niyama.bench.reproduce import chunks, run
from niyama.bench.reproduce.registry import FIGURES
from niyama.bench.reproduce.tasks import StepSizes
from niyama.cli import main
from niyama.sim.pool import Workers, worker_processes


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
        (["chunks", "--out", "x", "--traces", "{bad}"], "azure_code_2023.csv:3"),
        (["chunks", "--out", "{taken}"], "is a folder; allowed: a file that can be made"),
        (["chunks", "--out", "x", "--json", "{empty}"], "--json: cannot write"),
        (["chunks", "--out", "x", "--json", "{empty}/no/a.json"], "its folder does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken" / "chunks.png").mkdir(parents=True)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "azure_code_2023.csv").write_text(
        "num_prefill_tokens,num_decode_tokens\n100,10\n100,many\n", encoding="utf-8"
    )
    paths = {"{file}": str(tmp_path / "file"), "{empty}": str(tmp_path / "empty"), "x": str(tmp_path / "x")}
    paths |= {"{taken}": str(tmp_path / "taken"), "{bad}": str(tmp_path / "bad")}
    paths["{empty}/no/a.json"] = str(tmp_path / "empty" / "no" / "a.json")
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


def test_without_matplotlib_nothing_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("niyama.cli.reproduce.find_spec", lambda name: None)
    assert main(["reproduce", "chunks", "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == "niyama: error: pictures need matplotlib: pip install 'niyama[bench]'\n"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "--out: "),
        (ValueError("a number\nis odd"), "a number is odd"),
        (ImportError("pictures need matplotlib"), "pictures need matplotlib"),
    ],
)
def test_an_error_in_a_figure_is_one_line(
    error: Exception,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From within the task group of the figures, which wraps what they raise."""

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(chunks, "HOURS", 0.01)
    monkeypatch.setattr("niyama.bench.reproduce.page.save_png", fail)
    monkeypatch.setattr(chunks, "SHOWN_S", (5.0, 20.0))
    assert main(["reproduce", "chunks", "--jobs", "1", "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


INTERRUPTED = """
import asyncio, sys
from niyama.bench.reproduce import lab
from niyama.cli import main

async def results(self, figure, tasks, really=lab.Lab.results):
    asyncio.get_running_loop().call_later(1.0, print, "works")
    return await really(self, figure, tasks)

if __name__ == "__main__":
    lab.Lab.results = results
    sys.exit(main(sys.argv[1:]))
"""


def test_an_interrupt_ends_all_processes(tmp_path: Path) -> None:
    """Sent to every process of the group, as by Ctrl-C; the run itself would take minutes."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED, encoding="utf-8")
    argv = [sys.executable, str(script), "reproduce", "ablation", "--jobs", "2", "--out", str(tmp_path)]
    with subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "works\n"
            os.killpg(process.pid, signal.SIGINT)
            # The pipe ends when the last process that holds it does, the workers included.
            assert process.communicate(timeout=30)[1] == ""
            assert process.returncode == 130
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_killed_process_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def kill(desk: Any) -> Any:
        (worker,) = set(active_children()) - others
        worker.kill()
        return await desk.run([StepSizes(desk.case("azure-code", "edf"), 4.0, 0.5)])

    others = set(active_children())
    killed = FIGURES[0]._replace(name="killed", compute=kill)
    monkeypatch.setattr("niyama.bench.reproduce.registry.FIGURES", (killed,))

    @contextmanager
    def one(jobs: int, **more: Any) -> Iterator[Workers]:
        with worker_processes(1, **more) as workers:
            workers.submit(os.getpid).result()
            yield workers

    monkeypatch.setattr(run, "worker_processes", one)
    assert main(["reproduce", "--jobs", "2", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "niyama: error: a process was killed" in err
    assert err.count("\n") == 1
