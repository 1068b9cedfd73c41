"""Where a knee is to be expected, by simulation, so that its search begins there.

Only of an emulated engine, whose step times are known beforehand, and only where the simulator's core is
compiled: interpreted it would take minutes. What is measured decides; a wrong guess costs runs, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from niyama import compiled
from niyama.bench.carriers import priorities
from niyama.bench.contestants import MAX_NUM_SEQS, Contestant, Engine
from niyama.bench.knee import GRID, GUESS, MAX_LATE, STEP
from niyama.bench.planned import make_plan
from niyama.bench.scenarios import Job, Traffic
from niyama.emulation import Emulation, scaled_book
from niyama.qos import QosBook
from niyama.scheduling.policy import Request
from niyama.sim.capacity import Probe, attempt, search_around
from niyama.sim.live import ReplicaLimits
from niyama.sim.run import Setup
from niyama.workload.generate import Arrival

HOST = 1.05
"""A server takes so many times as long as its device alone."""

POLICY_OF = {"vllm-fcfs": "fcfs", "vllm-priority": "priority"}
"""The policies of ours that do what stock vLLM does."""


@dataclass(slots=True, kw_only=True)
class ExpectedKnees:
    """Simulates knees at the emulated device's own speed, each once.

    Attributes:
        engine: On which all run.
        traffic: What arrives, at the speed of the emulation, with lengths as the server takes them.
        book: The promises at the device's own speed.
        saturation_qps: Load 1 at the speed of the emulation.
        found: What is known already, by scenario and contestant.
        keep: Hears of `found` when it grows.
    """

    engine: Engine
    traffic: Traffic
    book: QosBook
    saturation_qps: float
    found: dict[str, float | None] = field(default_factory=dict[str, float | None])
    keep: Callable[[Mapping[str, float | None]], None] = lambda found: None

    def knee(self, contestant: Contestant, scenario: str) -> float | None:
        """Return the highest load of the grid that a contestant keeps in the simulator, 0 if none.

        None if nothing can be said: a computed engine, an interpreted simulator, a request that the KV
        cannot hold. Costs some six simulated runs, a few seconds each.
        """
        emulation = self.engine.emulation
        if emulation is None or not compiled.is_active():
            return None
        key = f"{scenario} of {contestant.key}"
        if key not in self.found:
            try:
                self.found[key] = self._search(contestant, scenario, emulation)
            except ValueError:
                self.found[key] = None
            self.keep(self.found)
        return self.found[key]

    def _search(self, contestant: Contestant, scenario: str, emulation: Emulation) -> float:
        setup = _setup(contestant, self.engine, emulation)

        def probe_at(point: int) -> Probe:
            arrivals = self._arrivals(Job(scenario, GRID[point - 1]), emulation.speedup)
            return Probe(setup.policy, GRID[point - 1], *attempt(setup, arrivals, MAX_LATE))

        low = search_around(probe_at, len(GRID), round(GUESS / STEP)).low
        return GRID[low - 1] if low else 0.0

    def _arrivals(self, job: Job, speedup: float) -> list[Arrival]:
        """Return the requests of a run, at the device's own speed and as much faster as a host takes time."""
        judged, slowdown = self.traffic, speedup / HOST
        seconds = judged.run_s(job.scenario) * slowdown
        traffic = replace(judged, book=scaled_book(self.book, HOST), seconds=seconds)
        qps = self.saturation_qps / slowdown
        workload = traffic.workload(job, qps)
        plan = make_plan(workload, job.load * qps, seconds=seconds, lengths=traffic.lengths)
        classes, ranks = traffic.book.classes, priorities(self.book)
        return [
            Arrival(
                Request(
                    request_id=one.id,
                    arrived_at=one.due_at,
                    slo=classes[one.qos_class].slo,
                    num_prompt_tokens=one.num_prompt_tokens,
                    max_tokens=one.num_output_tokens,
                    qos_class=one.qos_class,
                    importance=one.importance,
                    priority=ranks[one.qos_class],
                ),
                one.num_output_tokens,
            )
            for one in plan.requests
        ]


def _setup(contestant: Contestant, engine: Engine, emulation: Emulation) -> Setup:
    limits = ReplicaLimits(
        num_kv_tokens=emulation.num_kv_tokens,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=contestant.chunk or engine.our_tokens,
    )
    policy = POLICY_OF.get(contestant.policy, contestant.policy)
    return Setup(policy=policy, profile=emulation.profile, chunk=contestant.chunk, limits=limits)
