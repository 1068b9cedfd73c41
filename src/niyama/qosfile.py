"""The QoS file: YAML text to a `QosBook` and back, strictly.

    default: chat
    classes:
      chat:      {ttft: 2s, tbt: 50ms, importance: high}
      overnight: {ttlt: 8h, importance: low}
    service_tiers: {priority: chat, flex: overnight}
    objectives: {gold: chat}
    client_slos: {allow: true, min_ttft: 500ms, min_tbt: 20ms, min_ttlt: 5s}
    tenants: {acme: {weight: 2, classes: [chat]}}

Only `default` and `classes` are required. YAML is read by `niyama.yamltree`, which knows the
line of every field; the rules are here and see plain mappings, so JSON settings obey them too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from niyama.durations import format_duration, parse_duration_s
from niyama.qos import EVERYBODY, ClientSloLimits, Importance, QosBook, QosClass, Slo, Tenant
from niyama.wording import listed, one_line, shown
from niyama.yamltree import FieldPath, YamlError, dotted, read_tree

MAX_FILE_BYTES = 256 * 1024
"""A book of a thousand classes is smaller; more than this is some other file."""

_BOOK_KEYS = ("default", "classes", "service_tiers", "objectives", "client_slos", "tenants")
_SLO_KEYS = ("ttft", "tbt", "ttlt")
_CLASS_KEYS = (*_SLO_KEYS, "importance")
_FLOOR_KEYS = ("min_ttft", "min_tbt", "min_ttlt")
_MAX_WEIGHT = 1e6
_CLASS_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OUTSIDE_NAME = re.compile(r"[!-~]{1,128}")


class QosFileError(ValueError):
    """A QoS file that cannot be used; the text is one line: file, line, field, value, allowed."""


class _FieldError(Exception):
    def __init__(self, path: FieldPath, message: str) -> None:
        super().__init__(message)
        self.path = path

    def __str__(self) -> str:
        message = super().__str__()
        return f"{dotted(self.path)}: {message}" if self.path else message


def load_book(path: str | Path) -> QosBook:
    """Return the book in a YAML file.

    Raises:
        QosFileError: the file cannot be read, or `parse_book` refuses its text.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise QosFileError(one_line(f"{path}: too large for a QoS file; allowed: {MAX_FILE_BYTES} bytes"))
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise QosFileError(one_line(f"{path}:{line}: not UTF-8 text; allowed: YAML in UTF-8")) from None
    except (OSError, ValueError) as error:
        if isinstance(error, QosFileError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise QosFileError(one_line(f"{path}: cannot read the QoS file: {reason}")) from None
    return parse_book(text, str(path))


def parse_book(text: str, source: str = "<string>") -> QosBook:
    """Return the book in a YAML text; `source` names it in errors.

    Raises:
        QosFileError: anything else than a book that `book_from_mapping` takes.
    """
    try:
        tree = read_tree(text, _is_class_name)
    except YamlError as error:
        raise QosFileError(one_line(f"{source}:{error.line}: {error}")) from None
    try:
        return _book(tree.value)
    except _FieldError as error:
        raise QosFileError(one_line(f"{source}:{tree.line_of(error.path)}: {error}")) from None


def book_from_mapping(mapping: object) -> QosBook:
    """Return the book in a mapping of the QoS file's shape, such as `book_to_mapping` makes.

    Raises:
        QosFileError: an unknown key, a wrong type, a name that leads nowhere, a class without
            any SLO, or a duration outside (0, 366 days]; names the field, value and allowed.
    """
    try:
        return _book(mapping)
    except _FieldError as error:
        raise QosFileError(one_line(str(error))) from None


def book_to_mapping(book: QosBook) -> dict[str, object]:
    """Return the book as JSON-able mapping; `book_from_mapping` gives an equal book back."""
    mapping: dict[str, object] = {
        "default": book.default,
        "classes": {name: _class_to_mapping(qos_class) for name, qos_class in book.classes.items()},
        "client_slos": {
            "allow": book.client_slos.allow,
            "min_ttft": format_duration(book.client_slos.min_ttft_s),
            "min_tbt": format_duration(book.client_slos.min_tbt_s),
            "min_ttlt": format_duration(book.client_slos.min_ttlt_s),
        },
    }
    if book.service_tiers:
        mapping["service_tiers"] = dict(book.service_tiers)
    if book.objectives:
        mapping["objectives"] = dict(book.objectives)
    if book.tenants:
        mapping["tenants"] = {
            name: {
                "weight": tenant.weight,
                **({} if tenant.classes is None else {"classes": list(tenant.classes)}),
            }
            for name, tenant in book.tenants.items()
        }
    return mapping


def _class_to_mapping(qos_class: QosClass) -> dict[str, str]:
    slo = qos_class.slo
    parts = zip(_SLO_KEYS, (slo.ttft_s, slo.tbt_s, slo.ttlt_s), strict=True)
    promised = {key: format_duration(seconds) for key, seconds in parts if seconds is not None}
    return {**promised, "importance": qos_class.importance.name.lower()}


def _book(value: object) -> QosBook:
    fields = _mapping((), value, _BOOK_KEYS)
    for key in ("default", "classes"):
        if key not in fields:
            raise _FieldError((key,), f"missing; a QoS file needs {' and '.join(_BOOK_KEYS[:2])}")
    classes = {
        name: _class(("classes", name), name, entry)
        for name, entry in _mapping(("classes",), fields["classes"]).items()
    }
    if not classes:
        raise _FieldError(
            ("classes",), "empty; allowed: at least one class, e.g. chat: {ttft: 2s, tbt: 50ms}"
        )
    return QosBook(
        default=_known_class(("default",), fields["default"], classes),
        classes=MappingProxyType(classes),
        service_tiers=_name_map("service_tiers", fields, classes),
        objectives=_name_map("objectives", fields, classes),
        client_slos=_client_slos(fields.get("client_slos", {})),
        tenants=MappingProxyType(
            {
                _outside_name(("tenants", name), name): _tenant(("tenants", name), entry, classes)
                for name, entry in _mapping(("tenants",), fields.get("tenants", {})).items()
            }
        ),
    )


def _class(path: FieldPath, name: str, value: object) -> QosClass:
    if not _CLASS_NAME.fullmatch(name):
        raise _FieldError(path, f"{shown(name)} is not a class name; allowed: 1 to 64 of A-Z a-z 0-9 _ . -")
    if name == EVERYBODY:
        raise _FieldError(path, f"{shown(name)} means all classes in reports; allowed: any other name")
    fields = _mapping(path, value, _CLASS_KEYS)
    parts = {f"{key}_s": _duration((*path, key), fields[key]) for key in _SLO_KEYS if key in fields}
    if not parts:
        raise _FieldError(path, f"promises nothing; allowed: at least one of {listed(_SLO_KEYS)}")
    return QosClass(
        name, Slo(**parts), _importance((*path, "importance"), fields.get("importance", "normal"))
    )


def _importance(path: FieldPath, value: object) -> Importance:
    names = {importance.name.lower(): importance for importance in Importance}
    if not isinstance(value, str) or value not in names:
        raise _FieldError(path, f"{shown(value)} is not an importance; allowed: {listed(names)}")
    return names[value]


def _client_slos(value: object) -> ClientSloLimits:
    path = ("client_slos",)
    fields = _mapping(path, value, ("allow", *_FLOOR_KEYS))
    allow = fields.get("allow", True)
    if not isinstance(allow, bool):
        raise _FieldError((*path, "allow"), f"{shown(allow)} is not a truth value; allowed: true, false")
    floors = {f"{key}_s": _duration((*path, key), fields[key]) for key in _FLOOR_KEYS if key in fields}
    return ClientSloLimits(allow=allow, **floors)


def _tenant(path: FieldPath, value: object, classes: Mapping[str, QosClass]) -> Tenant:
    fields = _mapping(path, value, ("weight", "classes"))
    weight = fields.get("weight", 1.0)
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not 0 < (number := cast(float, weight)) <= _MAX_WEIGHT:
        allowed = f"a number > 0 and at most {_MAX_WEIGHT:.0f}"
        raise _FieldError((*path, "weight"), f"{shown(weight)} is not a weight; allowed: {allowed}")
    if "classes" not in fields:
        return Tenant(float(number))
    names = fields["classes"]
    path = (*path, "classes")
    if not isinstance(names, list) or not names:
        raise _FieldError(
            path, f"{shown(names)} is not a list of classes; allowed: some of {listed(classes)}"
        )
    known = tuple(_known_class((*path, str(index)), name, classes) for index, name in enumerate(names))
    if len(set(known)) < len(known):
        raise _FieldError(path, "names a class twice; allowed: each class once")
    return Tenant(float(number), known)


def _name_map(key: str, fields: Mapping[str, object], classes: Mapping[str, QosClass]) -> Mapping[str, str]:
    entries = _mapping((key,), fields.get(key, {}))
    return MappingProxyType(
        {
            _outside_name((key, name), name): _known_class((key, name), value, classes)
            for name, value in entries.items()
        }
    )


def _outside_name(path: FieldPath, name: str) -> str:
    """Return a name that arrives in requests; it must fit in an HTTP header."""
    if not _OUTSIDE_NAME.fullmatch(name):
        raise _FieldError(
            path, f"{shown(name)} is not a usable name; allowed: 1 to 128 visible ASCII characters"
        )
    return name


def _is_class_name(path: FieldPath) -> bool:
    """Whether a field names a class: `1` and `on` mean the classes of these names, as they do as keys."""
    match path:
        case ("default",) | ("service_tiers" | "objectives", _) | ("tenants", _, "classes", _):
            return True
    return False


def _known_class(path: FieldPath, value: object, classes: Mapping[str, QosClass]) -> str:
    if not isinstance(value, str) or value not in classes:
        raise _FieldError(path, f"{shown(value)} is not a class of this file; allowed: {listed(classes)}")
    return value


def _duration(path: FieldPath, value: object) -> float:
    try:
        return parse_duration_s(value)
    except ValueError as error:
        raise _FieldError(path, str(error)) from None


def _mapping(path: FieldPath, value: object, allowed: tuple[str, ...] | None = None) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        keys = f"a mapping with {listed(allowed)}" if allowed else "a mapping of names"
        raise _FieldError(path, f"{shown(value)} is not a mapping of names; allowed: {keys}")
    for key in value:
        if allowed and key not in allowed:
            raise _FieldError((*path, key), f"unknown key; allowed: {listed(allowed)}")
    return value
