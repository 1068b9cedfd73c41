"""A fleet in silos: every class, or kind of promise, on replicas of its own (paper, "Sarathi-Silo").

The silos share nothing, so each is simulated on its own, on the very requests of its classes that a
shared fleet would get. Interactive silos have small chunks, for the pace of their tokens;
the others large ones, for throughput.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from niyama.sim.report import late_share
from niyama.sim.run import Run, Setup, simulate
from niyama.sim.verdicts import Served
from niyama.workload.generate import Arrival, Workload

INTERACTIVE_CHUNK = 256
BATCH_CHUNK = 2048
"""Tokens of a step; the paper gives the first and calls the other large. Beyond 2048 the artifact's
profile gains less than 2 % of throughput."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silo:
    """Replicas for some classes alone.

    Attributes:
        classes: Whose requests it serves.
        setup: Its replicas, how many of them included.
    """

    classes: tuple[str, ...]
    setup: Setup

    @property
    def name(self) -> str:
        """The names of its classes, joined by `+`."""
        return "+".join(self.classes)

    def sized(self, num_replicas: int) -> Silo:
        """Return the silo with so many replicas."""
        return replace(self, setup=replace(self.setup, num_replicas=num_replicas))


def make_silos(
    workload: Workload,
    base: Setup,
    *,
    policy: str = "fcfs",
    interactive_chunk: int = INTERACTIVE_CHUNK,
    batch_chunk: int = BATCH_CHUNK,
    is_per_class: bool = False,
    classes: Iterable[str] | None = None,
) -> list[Silo]:
    """Return the silos of a workload, of one replica each.

    Args:
        workload: Its classes that can occur get a silo: those with a TTFT or TBT the first, all
            others the second.
        base: The replicas, but for policy and chunk.
        policy: Who schedules each silo.
        interactive_chunk: Tokens of a step where somebody reads along.
        batch_chunk: Tokens of a step elsewhere.
        is_per_class: A silo for every class instead of one for every kind of promise.
        classes: Who gets one, if not all classes that can occur.
    """
    book = workload.book.classes
    groups: defaultdict[tuple[bool, str], list[str]] = defaultdict(list)
    for name in workload.class_shares if classes is None else classes:
        is_batch = not book[name].slo.is_interactive
        groups[is_batch, name if is_per_class else ""].append(name)
    silos = []
    for (is_batch, _), members in sorted(groups.items(), key=lambda entry: entry[0][0]):
        chunk = batch_chunk if is_batch else interactive_chunk
        setup = replace(base, policy=policy, chunk=chunk, num_replicas=1)
        silos.append(Silo(classes=tuple(members), setup=setup))
    return silos


@dataclass(frozen=True, slots=True)
class SiloRun:
    """What happened in every silo, by its name."""

    runs: Mapping[str, Run]

    @property
    def served(self) -> list[Served]:
        """Every finished request, silo by silo."""
        return list(chain.from_iterable(run.served for run in self.runs.values()))

    @property
    def num_replicas(self) -> int:
        """Replicas of all silos."""
        return sum(len(run.replicas) for run in self.runs.values())


def simulate_silos(silos: Sequence[Silo], arrivals: Iterable[Arrival]) -> SiloRun:
    """Serve all arrivals, which come in order of time, each in the silo of its class.

    Raises:
        ValueError: a class has no silo, or more than one.
    """
    place: dict[str, str] = {}
    for silo in silos:
        for name in silo.classes:
            if name in place:
                raise ValueError(f"silos: class {name!r} is in two of them; allowed: one")
            place[name] = silo.name
    parts: dict[str, list[Arrival]] = {silo.name: [] for silo in silos}
    for arrival in arrivals:
        name = arrival.request.qos_class
        if name not in place:
            raise ValueError(f"silos: class {name!r} is in none of them; allowed: {', '.join(place)}")
        parts[place[name]].append(arrival)
    return SiloRun({silo.name: simulate(silo.setup, parts[silo.name]) for silo in silos})


def silo_late_share(run: SiloRun, silos: Sequence[Silo]) -> dict[str, float]:
    """Return the share of late requests, of all and of every class, by the silos' own criterion."""
    return late_share(run.served, silos[0].setup.criterion)
