"""`niyama compare` end to end: two real servers with an emulated device, a few seconds of load on each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engine.rig import require_vllm

pytestmark = pytest.mark.engine

COMMAND = [
    *(sys.executable, "-m", "niyama", "compare"),
    *("--emulate", "a100-80gb/llama-3-8b/tp1", "--speedup", "4", "--book", "tight"),
    *("--policies", "vllm-fcfs,niyama", "--chunks", "512", "--load", "0.5"),
    *("--seconds", "4", "--saturation-seconds", "6"),
]


def run(out: Path, cache: Path) -> tuple[str, str]:
    done = subprocess.run(
        [*COMMAND, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NIYAMA_CACHE": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_two_servers_get_the_same_requests_and_a_report(tmp_path: Path) -> None:
    require_vllm()
    pytest.importorskip("aiohttp")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    text, _ = run(out, tmp_path / "cache")
    assert "EMULATED" in text
    assert "SHORTENED" in text
    result = json.loads((out / "result.json").read_text())
    assert result["saturation_qps"] > 0
    assert result["engine"]["kind"] == "emulated"
    assert result["classes"]["interactive"] == {"ttft": "500ms", "tbt": "0.0125s", "importance": "normal"}
    fcfs, ours = result["runs"]
    assert (fcfs["policy"], fcfs["chunk"]) == ("vllm-fcfs", 512)
    assert (ours["policy"], ours["chunk"]) == ("niyama", None)
    assert fcfs["requests"] == ours["requests"] > 0
    assert fcfs["errors"] == ours["errors"] == 0
    lengths = [(r["lengths"]["mean_prompt_tokens"], r["lengths"]["mean_output_tokens"]) for r in (fcfs, ours)]
    assert lengths[0] == lengths[1]
    assert fcfs["lengths"]["output_off_share"] == ours["lengths"]["output_off_share"] == 0
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    # All is done: nothing starts, and the report is made again from what is there.
    before = (out / "report.html").read_text()
    _, progress = run(out, tmp_path / "cache")
    assert progress == ""
    assert (out / "report.html").read_text() == before
