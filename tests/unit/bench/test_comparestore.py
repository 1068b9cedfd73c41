from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from niyama.bench.comparestore import Store, StoreError
from niyama.bench.contestants import Contestant
from niyama.bench.scenarios import Job

SETTINGS = {"trace": "azure-conv", "seed": 1, "classes": None}
STOCK, JOB = Contestant("vllm-fcfs", 512), Job("steady", 0.85)


def test_a_finished_run_is_found_again(tmp_path: Path) -> None:
    Store(tmp_path / "new" / "out", SETTINGS).keep(STOCK, JOB, {"late_share": {"all": 0.25}})
    again = Store(tmp_path / "new" / "out", SETTINGS)
    assert again.run(STOCK, JOB) == {"late_share": {"all": 0.25}}
    assert again.run(Contestant("vllm-fcfs", 256), JOB) is None
    assert again.run(STOCK, Job("steady", 0.85, 1)) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 2}, "seed 1, not 2"),
        ({"options": []}, "options '--block-size 32', not ''"),
        ({"classes": None}, "classes a mapping, not None"),
        ({"classes": {"chat": {"tbt": "60ms"}}}, "classes.chat.tbt '50ms', not '60ms'"),
        ({"classes": {}}, "classes.chat a mapping, not None"),
    ],
)
def test_other_settings_need_another_folder(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "options": ["--block-size", "32"], "classes": {"chat": {"tbt": "50ms"}}}
    Store(tmp_path, settings)
    with pytest.raises(StoreError, match=f"it holds runs with {re.escape(said)}; allowed"):
        Store(tmp_path, {**settings, **changed})


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path, SETTINGS)
    store.keep(STOCK, JOB, {})
    (tmp_path / "runs" / STOCK.key / f"{JOB.key}.json").write_text("{")
    with pytest.raises(StoreError, match=r"steady-0\.850-0\.json: cannot read it"):
        store.run(STOCK, JOB)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make it"):
        Store(tmp_path / "file", SETTINGS)


def test_a_folder_has_one_comparison_at_a_time(tmp_path: Path) -> None:
    first, second = Store(tmp_path, SETTINGS), Store(tmp_path, SETTINGS)
    with first.held(), pytest.raises(StoreError, match="another comparison is at work in it; allowed"):
        second.held().__enter__()
    with second.held():
        pass


def test_a_comparison_that_was_killed_keeps_nobody_out(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from niyama.bench.comparestore import Store\n"
        "held = Store(Path(sys.argv[1]), {}).held(); held.__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    with Store(tmp_path, {}).held():
        pass
