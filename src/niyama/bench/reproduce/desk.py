"""What a figure is computed with: the traces, the scale, the seed, and the lab."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from niyama.bench.reproduce.cases import Case, Trace
from niyama.bench.reproduce.lab import Lab, Task
from niyama.bench.reproduce.scale import Scale
from niyama.bench.reproduce.tasks import Capacity

T = TypeVar("T")

POLICIES = ("fcfs", "srpf", "edf", "paper", "niyama")
"""Whom most figures compare, the best last."""


@dataclass(frozen=True, slots=True)
class Desk:
    """One figure's access to everything."""

    figure: str
    lab: Lab
    scale: Scale
    traces: Mapping[str, Trace]
    seed: int = 0

    async def run(self, tasks: Sequence[Task[T]]) -> list[T]:
        """Return the results of simulations, in their order."""
        return await self.lab.results(self.figure, tasks)

    def case(self, trace: str, policy: str, **fields: Any) -> Case:
        """Return a case; `fields` are those of `Case`."""
        return Case(trace=self.traces[trace], policy=policy, seed=self.seed, **fields)

    def capacity(self, case: Case) -> Capacity:
        """Return the search of a case's capacity."""
        scale = self.scale
        return Capacity(case, scale.capacity_hours, scale.screen_hours, scale.resolution)

    async def capacities(self, cases: Iterable[Case]) -> list[float]:
        """Return capacities, requests per second."""
        return [found.qps for found in await self.run([self.capacity(case) for case in cases])]
