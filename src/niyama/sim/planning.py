"""How many replicas for a load: shared under each policy, and in silos. What `niyama plan` computes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from niyama.latency import get_profile
from niyama.sim.bounds import bounds
from niyama.sim.pool import worker_processes
from niyama.sim.run import Setup
from niyama.sim.silo import Silo
from niyama.sim.sizing import DEFAULT_SAMPLE, Demand, SizeProbe, Sizing, fewest_replicas

Progress = Callable[[str, SizeProbe], None]
"""Hears of every probe, and of whose it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet, or a silo, that is to be sized.

    Attributes:
        name: For reports.
        setups: Replicas to choose from; those of which the fewest do are taken, the first of equals.
        demand: What arrives.
    """

    name: str
    setups: tuple[Setup, ...]
    demand: Demand
    max_late: float = 0.01
    sample: int = DEFAULT_SAMPLE

    @property
    def guess(self) -> int:
        """Replicas that could serve the demand if there were no deadlines: the search begins there."""
        setup, workload = self.setups[0], self.demand.workload
        bound = bounds(workload, get_profile(setup.profile, margin=setup.margin), setup.limits)
        shares = workload.class_shares
        here = sum(shares.get(name, 0.0) for name in self.demand.classes)
        qps = self.demand.qps * (here if self.demand.classes else 1.0)
        return max(1, math.ceil(qps / bound.qps))


@dataclass(slots=True)
class Sized:
    """A fleet with the size that it needs.

    Attributes:
        setup: The replicas chosen; those tried first if no size would do.
        sizing: Their search.
        probes: Of all set-ups, with the chunk of each.
    """

    name: str
    setup: Setup
    sizing: Sizing
    probes: list[tuple[int | None, SizeProbe]] = field(default_factory=list)

    @property
    def replicas(self) -> int | None:
        """The fewest in time; None if no size is."""
        return self.sizing.replicas


def size_fleet(fleet: Fleet, progress: Progress = lambda name, probe: None) -> Sized:
    """Search the fewest replicas over all set-ups of a fleet."""
    best: Sized | None = None
    probes: list[tuple[int | None, SizeProbe]] = []
    for setup in fleet.setups:
        sizing = fewest_replicas(
            setup,
            fleet.demand,
            guess=fleet.guess,
            max_late=fleet.max_late,
            sample=fleet.sample,
            progress=partial(progress, fleet.name),
        )
        probes += [(setup.chunk, probe) for probe in sizing.probes]
        if best is None or (sizing.replicas or math.inf) < (best.replicas or math.inf):
            best = Sized(fleet.name, setup, sizing)
    if best is None:
        raise ValueError(f"setups: fleet {fleet.name!r} has none; give at least one")
    best.probes = probes
    return best


def size_fleets(
    fleets: Sequence[Fleet], *, jobs: int = 1, progress: Progress = lambda name, probe: None
) -> Iterator[Sized]:
    """Yield every fleet's size, in their order; with several processes, `progress` hears of it after."""
    if jobs == 1:
        yield from (size_fleet(fleet, progress) for fleet in fleets)
        return
    with worker_processes(jobs) as workers:
        for sized in workers.map(size_fleet, fleets):
            for _, probe in sized.probes[-1:]:
                progress(sized.name, probe)
            yield sized


def size_notes(fleets: Sequence[Fleet], sized: Sequence[Sized]) -> list[str]:
    """Return a sentence for every fleet that came out smaller than the work alone takes.

    It was in time only because the run ended before its queues had grown.
    """
    return [
        f"{fleet.name}: {found.replicas} replicas do not keep up, {fleet.guess} would without any deadlines; "
        "the run is too short to show it"
        for fleet, found in zip(fleets, sized, strict=True)
        if found.replicas is not None and found.replicas < fleet.guess
    ]


def gpus_per_replica(profile: str) -> int | None:
    """Return the GPUs of a profile such as `a100-80gb/llama-3-8b/tp1`; None if its name does not say."""
    found = re.search(r"/tp(\d+)(?:-|$)", profile)
    return int(found[1]) if found else None


def describe_plan(
    shared: Sequence[Sized], silos: Sequence[tuple[Silo, Sized]], policy: str
) -> dict[str, Any]:
    """Return the result as JSON (design: "Commands and their JSON").

    Args:
        shared: A shared fleet per policy.
        silos: Each silo, and its size.
        policy: The policy of the shared fleet that the silos are compared with.

    Returns:
        `saving` is the share of the silos' replicas that the shared fleet does not need; None, like
        a number of replicas, where no size keeps the promises.
    """
    chosen = next(sized for sized in shared if sized.name == policy)
    num_gpus = gpus_per_replica(chosen.setup.profile)
    parts = [sized.replicas for _, sized in silos]
    num_silo = None if None in parts else sum(part or 0 for part in parts)
    saved = None if num_silo is None or chosen.replicas is None else num_silo - chosen.replicas
    return {
        "gpus_per_replica": num_gpus,
        "shared": _entry(chosen, num_gpus),
        "silo": {
            "replicas": num_silo,
            "gpus": _times(num_silo, num_gpus),
            "by_class": {silo.name: sized.replicas for silo, sized in silos},
            "silos": [{"classes": list(silo.classes), **_entry(sized, num_gpus)} for silo, sized in silos],
        },
        "saving": None if saved is None or not num_silo else saved / num_silo,
        "saving_gpus": _times(saved, num_gpus),
        "policies": {sized.name: _entry(sized, num_gpus) for sized in shared},
        "probes": [
            {"fleet": sized.name, "chunk": chunk, **probe._asdict()}
            for sized in (*shared, *(sized for _, sized in silos))
            for chunk, probe in sized.probes
        ],
    }


def _entry(sized: Sized, num_gpus: int | None) -> dict[str, Any]:
    return {
        "policy": sized.setup.policy,
        "chunk": sized.setup.chunk,
        "replicas": sized.replicas,
        "gpus": _times(sized.replicas, num_gpus),
        "late_share": sized.sizing.late_share,
    }


def _times(count: int | None, num_gpus: int | None) -> int | None:
    return None if count is None or num_gpus is None else count * num_gpus
