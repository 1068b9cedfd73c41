"""Small runs whose results are kept, byte for byte, but for the last digits of sums.

A change here is a change of what a policy decides or of what the simulator counts: look at the
difference, and write the files anew with `NIYAMA_GOLDEN=write pytest tests/golden`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from niyama.qos import paper_book
from niyama.sim.live import ReplicaLimits
from niyama.sim.report import report
from niyama.sim.run import Setup, simulate
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Workload, load_lengths

CASES = {"azure-code": 5.0, "sharegpt": 2.6}
"""Overload, so that relegation and memory pressure occur."""


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return float(f"{value:.9g}") if isinstance(value, float) else value


@pytest.mark.parametrize("trace", CASES)
@pytest.mark.parametrize("policy", ["niyama", "paper", "edf"])
def test_run_gives_the_kept_result(trace: str, policy: str) -> None:
    workload = Workload(name=trace, lengths=load_lengths(trace), book=paper_book(), arrivals=poisson, seed=7)
    setup = Setup(policy=policy, limits=ReplicaLimits(num_kv_tokens=60_000))
    run = simulate(setup, workload.requests(CASES[trace], 250))
    result = report(run, policy=policy, qps=CASES[trace], criterion="strict")
    text = json.dumps(rounded(result), indent=1) + "\n"
    kept = Path(__file__).parent / "data" / f"{trace}-{policy}.json"
    if os.environ.get("NIYAMA_GOLDEN") == "write":
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(text, encoding="utf-8")
    assert text == kept.read_text(encoding="utf-8")
