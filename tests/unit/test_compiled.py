"""Compiled or interpreted: the same results, and never an old source."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from niyama import compiled

RUN = "simulate --trace sharegpt --qps 3 --requests 150 --kv-tokens 40000 --low-share 0.2 --json -".split()  # noqa: SIM905
needs_compiled = pytest.mark.skipif(not compiled.is_fresh(), reason="not compiled; see make compile")


def python(*args: str, package: Path = compiled.PACKAGE, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(package.parent), compiled.PURE: "0", **environment}
    return subprocess.run([sys.executable, *args], env=env, check=True, capture_output=True, text=True).stdout


def is_active(package: Path, **environment: str) -> bool:
    program = "import niyama.scheduling.base as b, niyama.compiled as c; print(c.is_active(), b.__file__)"
    active, file = python("-c", program, package=package, **environment).split()
    assert (active == "True") is (not file.endswith(".py"))
    assert Path(file).is_relative_to(package)
    return active == "True"


@needs_compiled
@pytest.mark.parametrize("policy", ["niyama", "paper", "edf"])
def test_compiled_run_gives_the_same_bytes(policy: str) -> None:
    outputs = []
    for pure in ("0", "1"):
        result = json.loads(python("-m", "niyama", *RUN, "--policy", policy, NIYAMA_PURE=pure))
        assert result.pop("wall_s") > 0
        outputs.append(json.dumps(result))
    assert outputs[0] == outputs[1]


@needs_compiled
def test_edited_source_runs_as_it_is_written(tmp_path: Path) -> None:
    package = tmp_path / "niyama"
    shutil.copytree(compiled.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert is_active(package)
    assert not is_active(package, NIYAMA_PURE="1")
    with (package / "scheduling" / "pacing.py").open("a", encoding="utf-8") as file:
        file.write("\n# edited\n")
    assert not is_active(package)


def test_without_compiled_files_everything_runs_interpreted(tmp_path: Path) -> None:
    package = tmp_path / "niyama"
    shutil.copytree(compiled.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "_compiled"))
    assert not is_active(package)
    (package / "_compiled").mkdir()
    (package / "_compiled" / compiled.FINGERPRINT).write_text("of other sources", encoding="ascii")
    assert not is_active(package)


@pytest.mark.parametrize("module", compiled.MODULES)
def test_module_has_no_generator_expression(module: str) -> None:
    """Mypyc makes lists of them: an order to be read as far as needed would be read in full."""
    tree = ast.parse(compiled.source(module).read_text(encoding="utf-8"))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.GeneratorExp)] == []
