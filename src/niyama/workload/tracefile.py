"""Trace files: CSV and Mooncake-style JSONL, one request a line; a bad line is named.

CSV columns: `num_prefill_tokens`, `num_decode_tokens` and, optionally, `arrived_at` (seconds),
`class`, `tenant`, `importance`. JSONL fields: `input_length`, `output_length` and, optionally,
`timestamp` (milliseconds) and the same three. Other columns and fields are passed over.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from niyama.qos import Importance
from niyama.wording import listed, one_line, shown

MAX_TOKENS = 10_000_000
"""Longer prompts or answers are typing errors."""


class TraceError(ValueError):
    """A trace that cannot be used; the text is one line: file, line, field, value, allowed."""


class TraceRow(NamedTuple):
    """One recorded request; `arrived_at` is None if the file has no arrivals."""

    arrived_at: float | None
    num_prefill_tokens: int
    num_decode_tokens: int
    qos_class: str | None = None
    tenant: str = ""
    importance: Importance | None = None


class _Fields(NamedTuple):
    """What a format calls its fields, and how many of its time units make a second."""

    arrived_at: str
    prefill: str
    decode: str
    units_per_s: float


_CSV = _Fields("arrived_at", "num_prefill_tokens", "num_decode_tokens", 1.0)
_MOONCAKE = _Fields("timestamp", "input_length", "output_length", 1000.0)


def load_trace(path: str | Path) -> list[TraceRow]:
    """Return the requests of a trace file in order of arrival; JSONL if its name says so, or CSV.

    Raises:
        TraceError: the file cannot be read, has no requests, or a line is bad.
    """
    is_jsonl = Path(path).suffix.lower() in (".jsonl", ".json")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(_read_jsonl(file, path) if is_jsonl else _read_csv(file, path))
    except UnicodeDecodeError:
        raise TraceError(one_line(f"{path}: not UTF-8 text")) from None
    except OSError as error:
        raise TraceError(one_line(f"{path}: cannot read the trace: {error.strerror}")) from None
    if not rows:
        raise TraceError(one_line(f"{path}: no requests in it; allowed: at least one line of data"))
    rows.sort(key=lambda row: row.arrived_at or 0.0)
    return rows


def _read_csv(file: Iterable[str], path: str | Path) -> Iterator[TraceRow]:
    reader = csv.DictReader(file, skipinitialspace=True)
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    missing = [name for name in (_CSV.prefill, _CSV.decode) if name not in names]
    if missing:
        raise TraceError(
            one_line(
                f"{path}:1: no column {missing[0]}; allowed: {_CSV.prefill}, {_CSV.decode} and optional ones"
            )
        )
    try:
        for values in reader:
            yield _parse(values, _CSV, f"{path}:{reader.line_num}")
    except csv.Error as error:
        raise TraceError(one_line(f"{path}:{reader.line_num}: {error}")) from None


def _read_jsonl(file: Iterable[str], path: str | Path) -> Iterator[TraceRow]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise TraceError(one_line(f"{path}:{number}: not JSON: {error}")) from None
        if not isinstance(values, dict):
            raise TraceError(f"{path}:{number}: {shown(values)} is not a request; allowed: a JSON object")
        yield _parse(values, _MOONCAKE, f"{path}:{number}")


def _parse(values: Mapping[str, object], names: _Fields, where: str) -> TraceRow:
    arrived_at = values.get(names.arrived_at)
    tenant, qos_class = values.get("tenant"), values.get("class")
    return TraceRow(
        arrived_at=None if arrived_at is None else _instant(arrived_at, names, where),
        num_prefill_tokens=_count(values, names.prefill, where),
        num_decode_tokens=_count(values, names.decode, where),
        qos_class=str(qos_class) if qos_class else None,
        tenant=str(tenant) if tenant else "",
        importance=_importance(values.get("importance"), where),
    )


def _count(values: Mapping[str, object], name: str, where: str) -> int:
    value = values.get(name)
    number = _number(value)
    if not (number.is_integer() and 1 <= number <= MAX_TOKENS):
        allowed = f"allowed: a whole number of tokens, 1 to {MAX_TOKENS}"
        raise TraceError(one_line(f"{where}: {name}: {shown(value)} is no count; {allowed}"))
    return int(number)


def _instant(value: object, names: _Fields, where: str) -> float:
    number = _number(value)
    if not 0 <= number < math.inf:
        unit = "seconds" if names.units_per_s == 1 else "milliseconds"
        raise TraceError(
            one_line(f"{where}: {names.arrived_at}: {shown(value)} is no instant; allowed: {unit} >= 0")
        )
    return number / names.units_per_s


def _number(value: object) -> float:
    """Return the number that a text or JSON number is; NaN for everything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _importance(value: object, where: str) -> Importance | None:
    if value is None or value == "":
        return None
    known = {level.name.lower(): level for level in Importance}
    level = known.get(value.lower()) if isinstance(value, str) else None
    if level is None:
        raise TraceError(
            one_line(f"{where}: importance: {shown(value)} is unknown; allowed: {listed(known)}")
        )
    return level
