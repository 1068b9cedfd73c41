"""The commands, options and routers on the simulator's page are real."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from niyama.cli import _make_parser, main
from niyama.sim.fleet import ROUTERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    niyama (.*)$", PAGE, re.MULTILINE)
SHORT = {
    "simulate": "--hours 0.002",
    "capacity": "--requests 30 --resolution 2 --policies edf",
    "plan": "--requests 60 --policies edf --policy edf --sample 1",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what makes it short behind; the later of two equal options counts."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("--jobs all", "--jobs 1").replace("--jobs 2", "--jobs 1"))
    assert main([*words, *SHORT[words[0]].split()]) == 0


def test_every_verb_has_an_example() -> None:
    assert {command.split()[0] for command in COMMANDS} == set(SHORT)


def test_options_exist() -> None:
    known: set[str] = set()
    for action in _make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in SHORT:
                known |= {option for a in action.choices[verb]._actions for option in a.option_strings}
    for option in set(re.findall(r"`(--[a-z-]+)", PAGE)):
        assert option in known, option


def test_routers_are_on_the_page() -> None:
    for name in ROUTERS:
        assert f"| `{name}` |" in PAGE, name
