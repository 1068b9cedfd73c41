"""How the client asks for a class: one carrier for the whole run (docs/requests.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from niyama import asking
from niyama.bench.planned import Planned
from niyama.qos import QosBook, QosClass
from niyama.server.tiers import class_of_tier, known_tiers
from niyama.wording import listed, shown


class Carried(NamedTuple):
    """Headers, and fields of the JSON body."""

    headers: dict[str, str]
    body: dict[str, Any]


def _xargs(request: Planned, qos_class: QosClass) -> Carried:
    keys: dict[str, Any] = {asking.CLASS_KEY: qos_class.name}
    if request.tenant:
        keys[asking.TENANT_KEY] = request.tenant
    return Carried({}, {"vllm_xargs": keys})


def _header(request: Planned, qos_class: QosClass) -> Carried:
    return Carried({"x-niyama-class": qos_class.name, **_tenant(request)}, {})


def _slo(request: Planned, qos_class: QosClass) -> Carried:
    slo = qos_class.slo
    names = ("x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms", "x-niyama-ttlt-ms")
    parts = zip(names, (slo.ttft_s, slo.tbt_s, slo.ttlt_s), strict=True)
    numbers = {name: f"{part * 1000:.3f}" for name, part in parts if part is not None}
    # Numbers alone ask for the server's default class: for its importance, and for each of its parts
    # that they do not replace. Which class that is, no server tells.
    return Carried({**_header(request, qos_class).headers, **numbers}, {})


def _tenant(request: Planned) -> dict[str, str]:
    return {"x-llm-d-inference-fairness-id": request.tenant} if request.tenant else {}


def _tiers(book: QosBook) -> dict[str, str]:
    """Return a tier for every class that has one; the default class needs no tier of its own."""
    tiers: dict[str, str] = {book.default: "default"}
    for tier in known_tiers(book):
        name = class_of_tier(tier, book)
        if name is not None:
            tiers.setdefault(name, tier)
    return tiers


def priorities(book: QosBook) -> dict[str, int]:
    """Return vLLM's priority of every class, smaller first.

    By importance, then interactive classes first, then by the shortest promise: what an operator
    without Niyama would do with vLLM's one number.
    """

    def urgency(qos_class: QosClass) -> tuple[int, bool, float]:
        slo = qos_class.slo
        shortest_s = min(slo.ttft_s or math.inf, slo.ttlt_s or math.inf)
        return int(qos_class.importance), not slo.is_interactive, shortest_s

    ordered = sorted({urgency(qos_class) for qos_class in book.classes.values()})
    return {name: ordered.index(urgency(qos_class)) for name, qos_class in book.classes.items()}


Carry = Callable[[Planned], Carried]

CARRIERS = ("xargs", "header", "slo", "objective", "service-tier", "priority", "none")


def make_carrier(name: str, book: QosBook, classes: Iterable[str] | None = None) -> Carry:
    """Return the function that makes a request ask for its class.

    Args:
        name: `xargs` (body `vllm_xargs`), `header` (`x-niyama-class`), `slo` (the same, and the class's
            numbers in headers), `objective` (llm-d's header), `service-tier`, `priority` (vLLM's own
            number), or `none`.
        book: The classes and the operator's maps.
        classes: Names of those that requests will ask for; None for all.

    Raises:
        ValueError: an unknown carrier, or a class that the maps cannot name; names the option.
    """
    if name not in CARRIERS:
        raise ValueError(f"--carrier: {shown(name)} is unknown; allowed: {listed(CARRIERS)}")
    if name == "none":
        return lambda request: Carried({}, {})
    if name == "priority":
        ranks = priorities(book)
        return lambda request: Carried({}, {"priority": ranks[request.qos_class]})
    if name in ("service-tier", "objective"):
        return _mapped(name, book, book.classes if classes is None else classes)
    carry = {"xargs": _xargs, "header": _header, "slo": _slo}[name]
    return lambda request: carry(request, book.classes[request.qos_class])


def _mapped(name: str, book: QosBook, classes: Iterable[str]) -> Carry:
    if name == "service-tier":
        words = _tiers(book)
    else:
        words = {qos_class: objective for objective, qos_class in reversed(list(book.objectives.items()))}
    for qos_class in classes:
        if qos_class not in words:
            raise ValueError(
                f"--carrier {name}: nothing in the QoS file leads to class {shown(qos_class)}; "
                f"allowed: a file whose map names it, or another carrier: {listed(CARRIERS)}"
            )
    if name == "service-tier":
        return lambda request: Carried(_tenant(request), {"service_tier": words[request.qos_class]})
    key = "x-llm-d-inference-objective"
    return lambda request: Carried({key: words[request.qos_class], **_tenant(request)}, {})
