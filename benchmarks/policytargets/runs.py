"""Simulations, each kept in a file of its own: what was simulated once is read the next time."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from niyama.bench.reproduce.fleet import SizeFleet
from niyama.bench.reproduce.tasks import Capacity, Load, Outcome
from niyama.latency import get_profile
from niyama.qos import EVERYBODY
from niyama.sim.capacity import Probe, probe, search_around
from niyama.sim.lateness import late_share_bound
from policytargets.trials import ALPHAS_MS, PUBLISHED_MS, Trial, under, with_alpha

RESOLUTION = 200
"""Capacities are multiples of this part of the throughput without deadlines."""

SIZED_ON = 2
"""Replicas behind round robin that are simulated to size a fleet."""

START_SHARE = 0.85
"""Where a search begins that knows nothing, as a share of the highest load that it may try."""


class Runs:
    """Results of simulations, from the folder or from running them.

    Args:
        folder: Of the results; made if need be.
        shorten: Every run is so many times shorter, for a look.
    """

    def __init__(self, folder: Path, shorten: float = 1.0) -> None:
        self._folder = folder
        self._shorten = shorten
        folder.mkdir(parents=True, exist_ok=True)

    def hours(self, hours: float) -> float:
        """Return how long a run of so many hours is here."""
        return hours / self._shorten

    def load(self, trial: Trial, qps: float, hours: float) -> Outcome:
        """Return how one load was served, to the last token."""
        qps = round(qps, 4)
        task = Load(trial, qps, self.hours(hours))
        return Outcome(**self._kept("load", trial, qps, hours, lambda: task.run()._asdict()))

    def least_possible(self, trial: Trial, qps: float, hours: float) -> float:
        """Return the late share below which no scheduler comes at a load, even with hindsight."""
        qps = round(qps, 4)
        task = Load(under(trial, "fcfs"), qps, self.hours(hours))

        def run() -> dict[str, Any]:
            profile, limits = get_profile(trial.model.profile), trial.limits
            served = task.serve().served
            return late_share_bound(served, profile, limits, criterion=trial.criterion)

        return float(self._kept("bound", under(trial, "fcfs"), qps, hours, run)[EVERYBODY])

    def probe(self, trial: Trial, qps: float, hours: float) -> Probe:
        """Return whether a load is in time; the run ends once it cannot be."""

        def run() -> dict[str, Any]:
            return probe(self._search(trial, hours).question(self.hours(hours)), qps)._asdict()

        return Probe(**self._kept("probe", trial, qps, hours, run))

    def capacity(self, trial: Trial, hours: float, near_qps: float | None = None) -> float:
        """Return the highest load in time, requests per second; looks near a load first."""
        step_qps, most = self._grid(trial)
        start = round(START_SHARE * most if near_qps is None else near_qps / step_qps)
        found = search_around(lambda point: self.probe(trial, point * step_qps, hours), most, start)
        return found.low * step_qps

    def fewest(self, trial: Trial, qps: float, hours: float, *, is_silo: bool = False) -> dict[str, int]:
        """Return the fewest replicas in time for a load, of `all` or by silo.

        The trial's own number of replicas is not used.
        Raises ValueError if no number is.
        """
        task = SizeFleet(trial, qps, self.hours(hours), SIZED_ON, is_silo)
        kind = "silos" if is_silo else "size"
        found = self._kept(kind, trial, qps, hours, lambda: dict(task.run().replicas))
        if None in found.values():
            raise ValueError(f"qps: {qps:g}/s of {trial.trace.name} is in time on no number of replicas")
        return found

    def best_alpha(self, trial: Trial, hours: float, published_qps: float) -> tuple[float, float]:
        """Return the highest capacity of any static alpha, and the alpha, milliseconds per token.

        Each is tried one step above the best so far, so that a worse one costs one run.
        """
        step_qps, most = self._grid(trial)
        best, best_ms = round(published_qps / step_qps), PUBLISHED_MS
        for alpha_ms in ALPHAS_MS:
            tried = with_alpha(trial, alpha_ms)
            if best >= most or not self.probe(tried, (best + 1) * step_qps, hours).is_met:
                continue
            best = round(self.capacity(tried, hours, (best + 1) * step_qps) / step_qps)
            best_ms = alpha_ms
        return best * step_qps, best_ms

    def least_late(self, trial: Trial, qps: float, hours: float) -> tuple[float, float]:
        """Return the smallest late share of any static alpha at a load, and that alpha, ms per token."""
        shares = [
            (self.load(with_alpha(trial, alpha_ms), qps, hours).late["all"], alpha_ms)
            for alpha_ms in ALPHAS_MS
        ]
        return min(shares)

    def _grid(self, trial: Trial) -> tuple[float, int]:
        """Return the step of the loads that are tried, and how many steps the highest is."""
        step_qps = trial.bound_qps() / RESOLUTION
        return step_qps, math.floor(trial.policy_bound_qps() / step_qps)

    def _search(self, trial: Trial, hours: float) -> Capacity:
        return Capacity(trial, self.hours(hours), self.hours(hours), RESOLUTION)

    def _kept(
        self, kind: str, trial: Trial, qps: float, hours: float, run: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        key = {"kind": kind, **trial.key(), "qps": round(qps, 9), "hours": self.hours(hours)}
        name = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
        path = self._folder / f"{kind}-{trial.trace.name}-{trial.book}-{trial.policy}-{name}.json"
        if path.exists():
            return dict(json.loads(path.read_text())["result"])
        began_at = time.process_time()
        result = run()
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"key": key, "result": result}, indent=1))
        part.replace(path)
        self._tell(kind, trial, qps, time.process_time() - began_at)
        return dict(json.loads(json.dumps(result)))

    def _tell(self, kind: str, trial: Trial, qps: float, cost_s: float) -> None:
        alpha = "" if trial.alpha_s is None else f" {trial.alpha_s * 1000:g} ms"
        what = f"{kind} {trial.trace.name} {trial.book} {trial.policy}{alpha} at {qps:.2f}/s"
        print(f"{what}: {cost_s:.1f} s", file=sys.stderr, flush=True)
