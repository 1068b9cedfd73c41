"""What is simulated: the paper's set-up with other books, mixes and static alphas; what names a result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from niyama import compiled
from niyama.bench.reproduce.cases import Case, tiers
from niyama.qos import QosBook, QosClass, Slo
from niyama.sim.fleet import make_router
from niyama.sim.run import Setup
from niyama.workload.generate import Workload

ALPHAS_MS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Static alphas among which the best is searched, milliseconds per token."""

PUBLISHED_MS = 8.0

NIYAMA_ALONE = frozenset(
    f"niyama.scheduling.{name}"
    for name in ("gate", "hybrid", "load", "niyama", "priority", "relegation", "stalls")
)
"""Modules that no other policy here runs through."""

OTHER_MODULES = (
    "scheduling.reports",
    "scheduling.routing",
    "sim.capacity",
    "sim.fleet",
    "sim.run",
    "sim.verdicts",
    "workload.arrivals",
    "workload.generate",
)
"""What decides a result besides the modules that are compiled."""


def _book(*classes: QosClass) -> QosBook:
    return QosBook(classes[0].name, MappingProxyType({one.name: one for one in classes}))


TIGHT = _book(
    QosClass("chat", Slo(ttft_s=2.0, tbt_s=0.050)),
    QosClass("assist", Slo(ttft_s=4.0, tbt_s=0.100)),
    QosClass("minute", Slo(ttlt_s=60.0)),
    QosClass("batch", Slo(ttlt_s=600.0)),
)

FIVE = _book(
    QosClass("voice", Slo(ttft_s=1.0, tbt_s=0.040)),
    QosClass("chat", Slo(ttft_s=3.0, tbt_s=0.060)),
    QosClass("assist", Slo(ttft_s=6.0, tbt_s=0.100)),
    QosClass("minutes", Slo(ttlt_s=120.0)),
    QosClass("batch", Slo(ttlt_s=1800.0)),
)
"""Five classes with three paces; the fastest is well above a step of decodes alone, 15 to 30 ms."""

BOOKS = {"tight": TIGHT, "five": FIVE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Case):
    """A case with a book of its own, on one replica or a fleet.

    Attributes:
        book: `paper`, or one of BOOKS.
        mix: Weights of the book's classes in their order; equal shares if empty.
        replicas: How many.
        router: Who gets a request, by its name in `niyama.sim.fleet`.
    """

    book: str = "paper"
    mix: tuple[float, ...] = ()
    replicas: int = 1
    router: str = "round-robin"

    @property
    def classes(self) -> QosBook:
        """The promises."""
        return tiers(self.trace.name) if self.book == "paper" else BOOKS[self.book]

    def workload(self) -> Workload:
        """Return what arrives."""
        book = self.classes
        mix = dict(zip(book.classes, self.mix, strict=True)) if self.mix else {}
        return replace(Case.workload(self), book=book, mix=mix)

    def setup(self) -> Setup:
        """Return what serves."""
        return replace(Case.setup(self), num_replicas=self.replicas, router=make_router(self.router))

    def bound_qps(self) -> float:
        """Return the throughput of all replicas without deadlines."""
        return self.replicas * Case.bound_qps(self)

    def policy_bound_qps(self) -> float:
        """Return the throughput of all replicas without deadlines in steps of the policy's size."""
        return self.replicas * Case.policy_bound_qps(replace(self, replicas=1))

    def key(self) -> dict[str, Any]:
        """Return what decides a result of this trial but for load and length: JSON, no path of a machine."""
        return {
            "policy": self.policy,
            "alpha_s": self.alpha_s,
            "chunk": self.chunk,
            "profile": self.model.profile,
            "trace": self.trace.origin,
            "lengths": _digest(self.trace.source) if self.trace.is_real else "",
            "book": {name: repr(one) for name, one in self.classes.classes.items()},
            "mix": list(self.mix),
            "criterion": self.criterion,
            "arrivals": self.arrivals,
            "low_share": self.low_share,
            "seed": self.seed,
            "replicas": self.replicas,
            "router": self.router,
            "code": code(self.policy),
        }


def with_alpha(trial: Trial, alpha_ms: float) -> Trial:
    """Return the trial under the published policy with another static alpha, milliseconds per token."""
    return replace(trial, policy="paper", alpha_s=None if alpha_ms == PUBLISHED_MS else alpha_ms / 1000)


def under(trial: Trial, policy: str) -> Trial:
    """Return the trial under another policy as it is by default."""
    return replace(trial, policy=policy, alpha_s=None)


@cache
def code(policy: str) -> str:
    """Return a hash of the sources that a policy's results depend on."""
    modules = [*compiled.MODULES, *(f"niyama.{name}" for name in OTHER_MODULES)]
    found = sha256()
    for module in modules:
        if policy == "niyama" or module not in NIYAMA_ALONE:
            found.update(compiled.source(module).read_bytes())
    return found.hexdigest()[:16]


@cache
def _digest(source: str) -> str:
    return sha256(Path(source).read_bytes()).hexdigest()[:16]
