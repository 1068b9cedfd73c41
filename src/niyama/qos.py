"""The promises: SLOs, QoS classes and the book that holds them.

Nothing here knows about vLLM, HTTP or files; `niyama.qosfile` reads a book from YAML.
Every constructor raises ValueError for a promise that cannot be meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

EVERYBODY = "all"
"""What reports call all classes together; no class may have the name."""


class Importance(IntEnum):
    """Who is set aside last in overload. Smaller is more important, as everywhere."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Slo:
    """A latency promise; every part is optional, all durations in seconds, > 0.

    Attributes:
        ttft_s: Arrival to first token.
        tbt_s: Time between tokens: token n is due ``(n - 1) * tbt_s`` after the first.
        ttlt_s: Arrival to last token.
    """

    ttft_s: float | None = None
    tbt_s: float | None = None
    ttlt_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse a part that is not a positive number; NaN fails the comparison too."""
        for name, value in (("ttft_s", self.ttft_s), ("tbt_s", self.tbt_s), ("ttlt_s", self.ttlt_s)):
            if value is not None and not value > 0:
                raise ValueError(f"Slo.{name}: {value!r} is not a duration; allowed: seconds > 0")

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is promised."""
        return self.ttft_s is None and self.tbt_s is None and self.ttlt_s is None

    @property
    def is_interactive(self) -> bool:
        """Whether somebody reads along: the promise names a first token or a pace."""
        return self.ttft_s is not None or self.tbt_s is not None


@dataclass(frozen=True, slots=True)
class QosClass:
    """A named promise that requests ask for."""

    name: str
    slo: Slo
    importance: Importance = Importance.NORMAL


@dataclass(frozen=True, slots=True)
class ClientSloLimits:
    """What a client may ask for in numbers; an SLO below a floor is raised to it."""

    allow: bool = True
    min_ttft_s: float = 0.1
    min_tbt_s: float = 0.005
    min_ttlt_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """The classes that a tenant may use (None: all of them), and what it is owed in relation to others."""

    weight: float = 1.0
    classes: tuple[str, ...] | None = None

    def allows(self, qos_class: str) -> bool:
        """Whether the tenant may use the class."""
        return self.classes is None or qos_class in self.classes


@dataclass(frozen=True, slots=True)
class QosBook:
    """Every class of a deployment, the default one, and the maps from other names.

    Attributes:
        default: Name of the class of a request that names none.
        classes: By name, in file order.
        service_tiers: OpenAI/Anthropic ``service_tier`` value to class name.
        objectives: llm-d inference objective to class name.
    """

    default: str
    classes: Mapping[str, QosClass]
    service_tiers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    objectives: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    client_slos: ClientSloLimits = ClientSloLimits()
    tenants: Mapping[str, Tenant] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Refuse a book in which some name leads nowhere."""
        for name, qos_class in self.classes.items():
            if name == EVERYBODY:
                raise ValueError(f"QosBook.classes: {name!r} means all classes; allowed: any other name")
            if name != qos_class.name:
                raise ValueError(f"QosBook.classes: {name!r} holds the class named {qos_class.name!r}")
        used = {"default": [self.default]}
        used["service_tiers"] = list(self.service_tiers.values())
        used["objectives"] = list(self.objectives.values())
        used["tenants"] = [name for tenant in self.tenants.values() for name in tenant.classes or ()]
        for field_name, names in used.items():
            for name in names:
                if name not in self.classes:
                    known = ", ".join(self.classes) or "none, there are no classes"
                    raise ValueError(f"QosBook.{field_name}: no class {name!r}; allowed: {known}")

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle with plain dicts for the maps: a read-only view of a dict cannot be pickled."""
        maps = (dict(self.classes), dict(self.service_tiers), dict(self.objectives))
        return QosBook, (self.default, *maps, self.client_slos, dict(self.tenants))

    def weight(self, tenant: str) -> float:
        """Return what a tenant is owed in relation to others; one that is not in the book has 1."""
        known = self.tenants.get(tenant)
        return 1.0 if known is None else known.weight

    @property
    def default_class(self) -> QosClass:
        """The class of a request that asks for nothing."""
        return self.classes[self.default]


def paper_book() -> QosBook:
    """Return the built-in book: the three tiers of the paper's evaluation, `interactive` the default.

    Q1 promises a first token in 6 s and then one every 50 ms, Q2 and Q3 the last token in 600 s
    and 1800 s (section "Evaluation"). The paper treats them as equally important, so does this book.
    """
    tiers = {
        "interactive": Slo(ttft_s=6.0, tbt_s=0.05),
        "batch": Slo(ttlt_s=600.0),
        "background": Slo(ttlt_s=1800.0),
    }
    classes = {name: QosClass(name, slo) for name, slo in tiers.items()}
    return QosBook(default="interactive", classes=MappingProxyType(classes))
