"""What a request asks for, from the flat keys of its `vllm_xargs`.

The keys are the contract between whoever speaks to clients (our middleware, a gateway, a plain
client) and the scheduler. One reader serves both sides: `resolve` reports every error, for the
middleware to answer; `slo_from_xargs` falls back, for the scheduler, which cannot answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from niyama.durations import MAX_DURATION_S
from niyama.qos import QosBook, QosClass, Slo, Tenant
from niyama.wording import listed, shown

KEY_PREFIX = "niyama_"
CLASS_KEY = "niyama_class"
TTFT_KEY = "niyama_ttft_ms"
TBT_KEY = "niyama_tbt_ms"
TTLT_KEY = "niyama_ttlt_ms"
TENANT_KEY = "niyama_tenant"
OUTPUT_TOKENS_KEY = "niyama_output_tokens"
SLO_KEYS = (TTFT_KEY, TBT_KEY, TTLT_KEY)
ALL_KEYS = (CLASS_KEY, *SLO_KEYS, TENANT_KEY, OUTPUT_TOKENS_KEY)

UNKNOWN_CLASS = "invalid_qos_class"
"""Code of the error for a class that is not in the book."""

_MAX_MS = MAX_DURATION_S * 1000
_MAX_OUTPUT_TOKENS = 2**31 - 1
_TENANT = re.compile(r"[!-~]{1,128}")
_EVERYTHING = Tenant()

T = TypeVar("T")


class AskError(ValueError):
    """A value that cannot be honoured; the text is one line and says what is allowed.

    Attributes:
        key: The `vllm_xargs` key at fault.
        code: Short name of the error for programs, such as `invalid_slo`.
    """

    def __init__(self, key: str, code: str, message: str) -> None:
        """Take the key at fault, the code for programs and the message for people."""
        super().__init__(message)
        self.key = key
        self.code = code


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks for, complete and within the operator's limits.

    Attributes:
        slo: The class's SLO with the client's own parts in place, none below its floor.
        tenant: Empty when the request names none.
        expected_output_tokens: The client's guess, >= 1, or None.
        problem: The first value that was ignored and why, or None.
        problem_code: Short name of that problem for programs, such as `invalid_slo`, or None.
    """

    qos_class: QosClass
    slo: Slo
    tenant: str = ""
    expected_output_tokens: int | None = None
    problem: str | None = None
    problem_code: str | None = None


def slo_from_xargs(extra_args: Mapping[str, object] | None, book: QosBook) -> Ask:
    """Return what a request asks for; never raises.

    A bad value counts as absent, so the default class or the class's own SLO takes its place,
    and `Ask.problem` names it. Cost: a few dictionary look-ups when no key is ours.
    """
    if extra_args is None:
        return Ask(book.default_class, book.default_class.slo)
    ask, errors = resolve(extra_args, book)
    if not errors:
        return ask
    problem = f"{errors[0].key}: {errors[0]}"
    return replace(ask, problem=problem, problem_code=errors[0].code)


def resolve(fields: Mapping[str, object], book: QosBook) -> tuple[Ask, list[AskError]]:
    """Return what the keys of `ALL_KEYS` ask for, and every value that had to be ignored.

    A value of None counts as absent; other keys are left alone. A request that names no class gets
    the default one, or its tenant's first class where the default is closed to the tenant.
    """
    errors: list[AskError] = []

    def take(key: str, read: Callable[[str, object], T]) -> T | None:
        value = fields.get(key)
        if value is None:
            return None
        try:
            return read(key, value)
        except AskError as error:
            errors.append(error)
            return None

    asked_class = take(CLASS_KEY, lambda key, value: _class(key, value, book))
    tenant = take(TENANT_KEY, _tenant) or ""
    rules = book.tenants.get(tenant, _EVERYTHING)
    qos_class = asked_class or _class_within(rules, book)
    if not rules.allows(qos_class.name):
        errors.append(_class_not_allowed(qos_class, rules))
        qos_class = _class_within(rules, book)
    limits = book.client_slos
    floors_s = (limits.min_ttft_s, limits.min_tbt_s, limits.min_ttlt_s)
    asked_s = [take(key, lambda key, value: _seconds(key, value, book)) for key in SLO_KEYS]
    own_s = (qos_class.slo.ttft_s, qos_class.slo.tbt_s, qos_class.slo.ttlt_s)
    slo = qos_class.slo
    if any(part is not None for part in asked_s):
        parts = zip(asked_s, floors_s, own_s, strict=True)
        slo = Slo(*(own if asked is None else max(asked, floor) for asked, floor, own in parts))
    return Ask(qos_class, slo, tenant, take(OUTPUT_TOKENS_KEY, _num_tokens)), errors


def _class(key: str, value: object, book: QosBook) -> QosClass:
    found = book.classes.get(value) if isinstance(value, str) else None
    if found is None:
        known = listed(book.classes)
        raise AskError(key, UNKNOWN_CLASS, f"Unknown QoS class {shown(value)}. Known classes: {known}.")
    return found


def _tenant(key: str, value: object) -> str:
    if not isinstance(value, str) or not _TENANT.fullmatch(value):
        allowed = "1 to 128 visible ASCII characters"
        raise AskError(key, "invalid_tenant", f"{shown(value)} is not a tenant; allowed: {allowed}.")
    return value


def _class_not_allowed(qos_class: QosClass, rules: Tenant) -> AskError:
    allowed = listed(rules.classes or ())
    message = f"The tenant may not use QoS class {shown(qos_class.name)}; allowed: {allowed}."
    return AskError(CLASS_KEY, "class_not_allowed", message)


def _class_within(rules: Tenant, book: QosBook) -> QosClass:
    """Return the default class, or the tenant's first one where the default is not open to it."""
    if rules.allows(book.default) or not rules.classes:
        return book.default_class
    return book.classes[rules.classes[0]]


def _seconds(key: str, value: object, book: QosBook) -> float:
    if not book.client_slos.allow:
        known = listed(book.classes)
        message = f"This server takes no SLOs from clients; allowed: a QoS class, one of {known}."
        raise AskError(key, "invalid_slo", message)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < cast(float, value) <= _MAX_MS:
        allowed = f"a number of milliseconds > 0 and at most {_MAX_MS:.0f} (366 days)"
        raise AskError(key, "invalid_slo", f"{shown(value)} is not an SLO; allowed: {allowed}.")
    return cast(float, value) / 1000


def _num_tokens(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_OUTPUT_TOKENS:
        allowed = f"a whole number from 1 to {_MAX_OUTPUT_TOKENS}"
        message = f"{shown(value)} is not a number of output tokens; allowed: {allowed}."
        raise AskError(key, "invalid_output_tokens", message)
    return value
