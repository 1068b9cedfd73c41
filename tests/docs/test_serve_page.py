"""docs/serve.md and the options, settings and log fields of `niyama serve` are the same lists."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from niyama import settings
from niyama.cli import checks, serve
from niyama.engines.vllm.steplog import StepLog
from niyama.scheduling.policy import BatchShape, Launch, Plan, StepOutcome

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()


def names(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text))


def test_every_option_is_in_the_table() -> None:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    (subparsers,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    actions = subparsers.choices["serve"]._actions
    options = {word for action in actions for word in action.option_strings if word.startswith("--")}
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `--"))
    assert names(r"--[a-z-]+", table) == options - {"--help", "--print-command"}
    assert "`--print-command`" in PAGE


def test_what_is_refused_is_named() -> None:
    assert set(checks._VLLM_SERVE_ONLY) <= names(r"--[a-z-]+", PAGE)


def test_every_setting_is_named() -> None:
    section = PAGE.partition("## Without the launcher")[2].partition("## ")[0]
    assert set(settings._KEYS) <= names(r"`(\w+)`", section)


def test_the_step_log_has_exactly_the_fields_of_the_table(tmp_path: Path) -> None:
    log = StepLog(str(tmp_path / "steps.jsonl"))
    shape = BatchShape(0, 1)
    plan = Plan(1, [], shape, 0.01)
    log.write(StepOutcome(Launch(0.0, [], shape), 0.0, 0.01), plan, 0.01, 0.0)
    log.close()
    line = json.loads((tmp_path / "steps.jsonl").read_text())
    section = PAGE.partition("## The step log")[2]
    cells = names(r"(?m)^\| ([^|]+) \|", section) - {"field", "---"}
    assert {name for cell in cells for name in names(r"`(\w+)`", cell)} == set(line)
