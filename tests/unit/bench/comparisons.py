"""Rows and results as a comparison makes them."""

from __future__ import annotations

from typing import Any

NO_PARTS = dict.fromkeys(("ttft_late_share", "tbt_late_share", "ttlt_late_share"))


def row(
    policy: str,
    scenario: str = "steady",
    load: float = 1.3,
    *,
    late: dict[str, float] | None = None,
    repeat: int = 0,
    chunk: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    shares = {} if late is None else {"all": sum(late.values()) / max(1, len(late)), **late}
    return {
        "policy": policy,
        "chunk": chunk or (512 if policy.startswith("vllm") else None),
        "scenario": scenario,
        "load": load,
        "qps": 10 * load,
        "repeat": repeat,
        "seed": 1 + repeat,
        "seconds": 180.0,
        "valid": True,
        "invalid_because": [],
        "errors": 0,
        "late_share": shares,
        "late_share_important": shares.get("all"),
        "goodput_rps": 5.0,
        "throughput_tps": 100.0,
        **NO_PARTS,
        **more,
    }


def result(runs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "saturation_qps": 10.0,
        "saturation_tps": 100.0,
        "step_s": 0.035,
        "engine": {"kind": "real", "description": "vLLM computing the demo model"},
        "policies": list(dict.fromkeys(run["policy"] for run in runs)),
        "scenarios": list(dict.fromkeys(run["scenario"] for run in runs)),
        "classes": {"a": {"ttft": "1s"}, "b": {"ttlt": "9s"}, "b<": {"ttlt": "9s"}},
        "best_chunk": {"vllm-fcfs": 512},
        "runs": runs,
        "tuning": [],
        "knees": {},
        "book": "paper",
        "knee_runs": [],
        "criterion": "strict",
        "trace": "azure-conv",
        "scale_lengths": 0.25,
        "seed": 1,
        "repeats": 1,
        "seconds": 180.0,
        "shortened": False,
        "date": "2026-01-01",
        "machine": "x86_64, 2 cores",
        "versions": {"vllm": "0.32.0"},
        **more,
    }
