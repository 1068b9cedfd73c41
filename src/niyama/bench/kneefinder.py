"""The knees of a comparison: which configuration is tried at which load, in which order, what is found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from niyama.bench.client import run_async
from niyama.bench.contestants import Contestant
from niyama.bench.expected import ExpectedKnees
from niyama.bench.knee import Knee, Try, passes, raise_knees
from niyama.bench.scenarios import KNEE, Job


@dataclass(slots=True, kw_only=True)
class KneeFinder:
    """Searches knees with runs of a comparison.

    Attributes:
        chunks: Of which stock vLLM gets the best.
        best_chunk: Those of stock vLLM that are known, by policy.
        expected: Where the knees probably are.
        saturation_qps: Load 1.
        run: Returns the row of a job, run or kept.
        tell: Hears of what is found.
    """

    chunks: Sequence[int]
    best_chunk: Mapping[str, int]
    expected: ExpectedKnees
    saturation_qps: float
    run: Callable[[Contestant, Job], Awaitable[dict[str, Any]]]
    tell: Callable[[str], None]

    def knees(self, policies: Sequence[str], scenario: str = KNEE) -> dict[str, dict[str, Any]]:
        """Return every policy's knee, searched load by load in turn: `load`, `qps`, `chunk` and `valid`.

        Of stock vLLM it is that of its best chunk.
        """
        candidates = {policy: self._candidates(policy) for policy in policies}
        expected = {policy: self._expect(some, scenario) for policy, some in candidates.items()}
        rows: dict[str, list[dict[str, Any]]] = {policy: [] for policy in policies}
        holds = {
            policy: partial(self._holds, candidates[policy], scenario, rows[policy]) for policy in policies
        }
        found = run_async(raise_knees(holds, expected))
        return {
            policy: self._row(policy, scenario, found[policy], candidates[policy], rows[policy])
            for policy in policies
        }

    def _candidates(self, policy: str) -> list[Contestant]:
        """Return what may have the highest knee, the likeliest first."""
        if not Contestant(policy).is_stock:
            return [Contestant(policy)]
        first = self.best_chunk.get(policy, self.chunks[(len(self.chunks) - 1) // 2])
        return [Contestant(policy, chunk) for chunk in sorted(self.chunks, key=lambda chunk: chunk != first)]

    def _expect(self, candidates: Sequence[Contestant], scenario: str) -> list[float | None]:
        found = [self.expected.knee(contestant, scenario) for contestant in candidates]
        for contestant, load in zip(candidates, found, strict=True):
            if load is not None:
                self.tell(f"{scenario} of {contestant.key}: {load:g} in the simulator")
        return found

    async def _holds(
        self, candidates: Sequence[Contestant], scenario: str, rows: list[dict[str, Any]], tried: Try
    ) -> bool:
        """Whether a candidate keeps a load in time; its run is put to the rows."""
        rows.append(await self.run(candidates[tried.number], Job(scenario, tried.load)))
        return passes(rows[-1])

    def _row(
        self,
        policy: str,
        scenario: str,
        knee: Knee,
        candidates: Sequence[Contestant],
        rows: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        chunk = self.best_chunk.get(policy) if knee.number is None else candidates[knee.number].chunk
        is_valid = all(row["valid"] for row in rows)
        self.tell(f"{scenario} of {policy}: {knee.load:g}{'' if is_valid else ' (INVALID)'}")
        return {"load": knee.load, "qps": knee.load * self.saturation_qps, "chunk": chunk, "valid": is_valid}
