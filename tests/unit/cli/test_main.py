from __future__ import annotations

import subprocess
import sys

import pytest

from niyama import __version__
from niyama.cli import main


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, niyama, niyama.cli\n"
        "try: niyama.cli.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'vllm', 'torch', 'transformers', 'tokenizers', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout
    assert "qos" in done.stdout


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "niyama", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"niyama {__version__}"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "VERB"),
        (["no-such-verb"], "no-such-verb"),
        (["qos", "check", "--bogus", "file"], "--bogus"),
        (["serve", "--pacing", "fast"], "fast"),
        (["serve", "--port", "many"], "many"),
    ],
)
def test_bad_command_line_is_one_line_and_status_2(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in err
    assert err.count("\n") == 1
