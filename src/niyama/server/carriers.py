"""How an HTTP request asks for a class or an SLO: the carriers and which of them wins.

Highest precedence first; an SLO part, the class and the tenant are each decided apart:

1. `vllm_xargs.niyama_*` in the body;
2. `x-niyama-class`, `x-llm-d-slo-ttft-ms`, `x-llm-d-slo-tpot-ms`, `x-niyama-ttlt-ms`;
3. `x-llm-d-inference-objective` through the operator's map; the gateway owns those names, so an
   unmapped one means the default class and is no error;
4. `service_tier` in the body, through the operator's map or the usual meanings;
5. the default class.

`x-llm-d-inference-fairness-id` names the tenant, and there the header is above the body: gateways
write headers, clients bodies. All carriers of a tenant must agree. llm-d's older header names are
read where the present one is absent. A carrier that a higher one overrides is not checked, except
`service_tier`, which the answer repeats. Everything here is pure; `middleware` does the ASGI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from niyama import asking
from niyama.asking import Ask, AskError
from niyama.qos import QosBook
from niyama.server.tiers import class_of_tier, known_tiers, served_tier
from niyama.wording import listed, shown

MAX_HEADER_CHARS = 256
"""Longest value of one of our headers; the names in a book are far shorter."""

_HEADERS = {
    asking.CLASS_KEY: ("x-niyama-class",),
    asking.TTFT_KEY: ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms", "x-niyama-ttft-ms"),
    asking.TBT_KEY: ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms", "x-niyama-tbt-ms"),
    asking.TTLT_KEY: ("x-niyama-ttlt-ms",),
    asking.TENANT_KEY: (
        "x-llm-d-inference-fairness-id",
        "x-gateway-inference-fairness-id",
        "x-niyama-tenant",
    ),
}
_OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
_OUR_HEADERS = frozenset(name for names in (*_HEADERS.values(), _OBJECTIVE_HEADERS) for name in names)
_CODES = {asking.CLASS_KEY: "invalid_qos_class", asking.TENANT_KEY: "invalid_tenant"}
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


class QosRequestError(ValueError):
    """A request that asks for what cannot be; the text is one line for its author.

    Attributes:
        status: HTTP status of the answer, 400 or 403.
        param: The carrier at fault, such as `x-niyama-class`.
        code: Short name for programs, such as `invalid_slo`.
    """

    def __init__(self, message: str, param: str, code: str, status: int = 400) -> None:
        """Take the message for people, and the carrier, code and status for programs."""
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status

    def to_body(self) -> dict[str, object]:
        """Return OpenAI's error object; the outer `type` is what Anthropic's clients look for."""
        kind = "permission_error" if self.status == 403 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"type": "error", "error": error}


@dataclass(frozen=True, slots=True)
class Carried:
    """What the carriers of one request say together.

    Attributes:
        ask: The class and SLO, complete and clamped.
        xargs: The `vllm_xargs` that tell the scheduler so; the client's other keys included.
        asked_tier: The request's `service_tier`, or None.
        tier: The tier that the class stands for; None when the request carried none.
    """

    ask: Ask
    xargs: Mapping[str, object] = field(default_factory=dict[str, object])
    asked_tier: str | None = None
    tier: str | None = None


def read_carriers(
    headers: Iterable[tuple[bytes, bytes]], body: Mapping[str, object], book: QosBook
) -> Carried:
    """Return what a request asks for.

    Args:
        headers: As ASGI gives them: names in lower case, one pair per line.
        body: The parsed JSON object of the request.
        book: The classes and the operator's maps and limits.

    Raises:
        QosRequestError: a carrier holds what the book does not allow.
    """
    given = _xargs(body)
    ours = _our_headers(headers)
    fields = {key: given.get(key) for key in asking.ALL_KEYS if given.get(key) is not None}
    origin = {key: f"vllm_xargs.{key}" for key in fields}
    _check_tenants(fields.get(asking.TENANT_KEY), ours)
    for key, names in _HEADERS.items():
        name = _present(names, ours)
        if name is not None and (key not in fields or key == asking.TENANT_KEY):
            fields[key] = _header_value(name, ours[name], key)
            origin[key] = name
    asked_tier = _service_tier(body, book)
    _add_mapped_class(fields, origin, ours, asked_tier, book)
    ask, errors = asking.resolve(fields, book)
    if errors:
        raise _refusal(errors[0], origin)
    tier = None if asked_tier is None else served_tier(asked_tier, ask.qos_class.name, book)
    return Carried(ask, {**given, **_written(fields, ask)}, asked_tier, tier)


def _xargs(body: Mapping[str, object]) -> Mapping[str, object]:
    given = body.get("vllm_xargs")
    if given is None:
        return {}
    allowed = listed(asking.ALL_KEYS)
    if not isinstance(given, dict):
        message = f"{shown(given)} is not an object; allowed: an object, with {allowed} among its keys."
        raise QosRequestError(message, "vllm_xargs", "invalid_qos_class")
    for key in given:
        if key.startswith(asking.KEY_PREFIX) and key not in asking.ALL_KEYS:
            param = f"vllm_xargs.{key[:64]}"
            raise QosRequestError(
                f"Unknown key {shown(key)}; allowed: {allowed}.", param, "invalid_qos_class"
            )
    return given


def _check_tenants(in_body: object, ours: Mapping[str, list[str]]) -> None:
    """Refuse a request whose carriers name different tenants.

    A gateway sets one of the headers. A client who adds another carrier must not get the weight or the
    classes of another tenant by it.
    """
    names = [name for name in _HEADERS[asking.TENANT_KEY] if name in ours]
    if not names:
        return
    first = names[0]
    given: dict[str, object] = {name: _single(name, ours[name], "invalid_tenant") for name in names}
    if in_body is not None:
        given[f"vllm_xargs.{asking.TENANT_KEY}"] = in_body
    for carrier, tenant in given.items():
        if tenant != given[first]:
            message = f"{shown(tenant)} is not the tenant of the header {first}; allowed: the same, or none."
            raise QosRequestError(message, carrier, "tenant_not_allowed", 403)


def _our_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    ours: dict[str, list[str]] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in _OUR_HEADERS:
            ours.setdefault(name, []).append(raw_value.decode("latin-1").strip())
    return ours


def _present(names: Iterable[str], ours: Mapping[str, list[str]]) -> str | None:
    return next((name for name in names if name in ours), None)


def _single(name: str, values: list[str], code: str) -> str:
    if len(set(values)) > 1:
        message = f"Header {name} is given {len(values)} times with different values; allowed: once."
        raise QosRequestError(message, name, code)
    if len(values[0]) > MAX_HEADER_CHARS:
        message = f"Header {name} is {len(values[0])} characters long; allowed: at most {MAX_HEADER_CHARS}."
        raise QosRequestError(message, name, code)
    return values[0]


def _header_value(name: str, values: list[str], key: str) -> object:
    text = _single(name, values, _CODES.get(key, "invalid_slo"))
    return float(text) if key in asking.SLO_KEYS and _NUMBER.fullmatch(text) else text


def _service_tier(body: Mapping[str, object], book: QosBook) -> str | None:
    tier = body.get("service_tier")
    if tier is None:
        return None
    known = known_tiers(book)
    if not isinstance(tier, str) or tier not in known:
        message = f"Unknown service tier {shown(tier)}. Known tiers: {listed(known)}."
        raise QosRequestError(message, "service_tier", "invalid_service_tier")
    return tier


def _add_mapped_class(
    fields: dict[str, object],
    origin: dict[str, str],
    ours: Mapping[str, list[str]],
    asked_tier: str | None,
    book: QosBook,
) -> None:
    """Add the class that a map gives, where neither the body nor a header names one."""
    if asking.CLASS_KEY in fields:
        return
    name = _present(_OBJECTIVE_HEADERS, ours)
    mapped: str | None = None
    if name is not None:
        mapped = book.objectives.get(_single(name, ours[name], "invalid_qos_class"))
    elif asked_tier is not None:
        name, mapped = "service_tier", class_of_tier(asked_tier, book)
    if name is not None and mapped is not None:
        fields[asking.CLASS_KEY] = mapped
        origin[asking.CLASS_KEY] = name


def _refusal(error: AskError, origin: Mapping[str, str]) -> QosRequestError:
    param = origin.get(error.key) or origin.get(asking.TENANT_KEY, error.key)
    # A closed class is a matter of rights, not of spelling: a retry with other words cannot help,
    # and SDKs raise PermissionDeniedError for a 403.
    status = 403 if error.code == "class_not_allowed" else 400
    return QosRequestError(str(error), param, error.code, status)


def _written(fields: Mapping[str, object], ask: Ask) -> dict[str, object]:
    """Return the keys that the request set, with SLO parts below their floor raised to it."""
    written = dict(fields)
    for key, seconds in zip(asking.SLO_KEYS, (ask.slo.ttft_s, ask.slo.tbt_s, ask.slo.ttlt_s), strict=True):
        value = fields.get(key)
        if isinstance(value, (int, float)) and seconds is not None and value / 1000 < seconds:
            written[key] = round(seconds * 1000, 6)
    return written
