"""A machine on which comparisons run in no time: servers and runs are scripted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.bench.comparisons import row

from niyama.bench import compare, compareserver
from niyama.bench.compare import Comparer, Comparison
from niyama.bench.comparestore import Store
from niyama.bench.contestants import Contestant, Engine
from niyama.bench.planned import Lengths
from niyama.bench.scenarios import Job, Traffic
from niyama.qos import paper_book
from niyama.workload.generate import load_lengths

KNEES = {"vllm-fcfs-256": 0.6, "vllm-fcfs-512": 0.7, "vllm-fcfs-1024": 0.5, "niyama": 1.1}
"""Up to these loads a scripted server keeps every class in time."""


class Machine:
    """Counts servers and runs, and answers as if each server had its knee."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.ran: list[tuple[str, str, float]] = []
        self.running = 0
        self.num_invalid: Counter[tuple[str, str, float]] = Counter()
        """So many runs of a contestant, scenario and load are INVALID yet; of the basis under `basis`."""
        self.measured: list[str] = []
        """Servers at which load 1 was measured."""
        self.commands: dict[str, list[str]] = {}
        self.records: list[Path | None] = []

    @contextmanager
    def serving(self, words: Sequence[str], port: int, log: Path, env: Mapping[str, str]) -> Iterator[str]:
        self.running += 1
        assert self.running == 1, "one server at a time"
        self.served.append(log.stem)
        self.commands[log.stem] = list(words)
        yield log.stem
        self.running -= 1

    async def basis(self, url: str, traffic: Traffic, wants_step: bool) -> dict[str, Any]:
        step_s = 0.04 if wants_step else None
        self.measured.append(url)
        found = {"saturation_qps": 10.0, "saturation_tps": 700.0, "step_s": step_s}
        return found | self.validity(url, "basis", 0.0)

    def validity(self, key: str, scenario: str, load: float) -> dict[str, Any]:
        self.num_invalid[key, scenario, load] -= 1
        is_valid = self.num_invalid[key, scenario, load] < 0
        return {"valid": is_valid, "invalid_because": [] if is_valid else ["fell behind"]}

    async def run(
        self,
        url: str,
        contestant: Contestant,
        job: Job,
        traffic: Traffic,
        qps: float,
        *,
        records: Path | None,
        progress: object,
    ) -> dict[str, Any]:
        assert url == contestant.key
        self.records.append(records)
        self.ran.append((contestant.key, job.scenario, job.load))
        late = max(0.0, job.load - KNEES[contestant.key])
        return row(
            contestant.policy,
            job.scenario,
            job.load,
            late={"a": late},
            repeat=job.repeat,
            chunk=contestant.chunk,
            **self.validity(contestant.key, job.scenario, job.load),
        )


def scripted_machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Let comparisons run on a new machine."""
    made = Machine()
    monkeypatch.setattr(compareserver, "serving", made.serving)
    monkeypatch.setattr(compare, "measure_basis", made.basis)
    monkeypatch.setattr(compare, "run_job", made.run)
    return made


def comparer(folder: Path, **more: Any) -> Comparer:
    traffic = Traffic(
        trace="azure-conv", rows=load_lengths("azure-conv"), lengths=Lengths(), book=paper_book()
    )
    what = Comparison(
        engine=Engine(model="org/m"),
        policies=["vllm-fcfs", "niyama"],
        traffic=traffic,
        **{"chunks": [256, 512], "loads": [0.85, 1.3], **more},
    )
    return Comparer(what, Store(folder, {}), lambda text: None)
