"""`niyama soak`, short: a real server under load with clients that leave, and all accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.engine.rig import require_vllm

from niyama.cli import main

pytestmark = pytest.mark.engine

MINUTES = 3.0


@pytest.mark.timeout(1200)
def test_short_soak_finds_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_vllm()
    monkeypatch.setenv("NIYAMA_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    target, log = tmp_path / "soak.json", tmp_path / "server.log"
    status = main(["soak", "--minutes", str(MINUTES), "--json", str(target), "--log", str(log)])
    text = capsys.readouterr().out
    assert status == 0, text
    result = json.loads(target.read_text())
    assert result["problems"] == []
    assert result["fallback_steps"] == result["laws_broken"] == 0
    assert result["preempted"] > 0
    assert {"API server", "engine core"} <= {memory["role"] for memory in result["memory"]}
    assert "Nothing is wrong." in text
