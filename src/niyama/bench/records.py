"""The record of a run: one header, one line per request (docs/bench.md has the fields).

    {"niyama_records": 1, "run_id": ..., "target": {...}, "versions": {...}, "seed": 0, ...}
    {"id": "r0", "class": "interactive", ..., "due_at": 0.41, "sent_at": 0.41, "token_at": [...], ...}

All instants are seconds since the start of the run, by the client's monotonic clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from niyama.qos import Importance, QosBook
from niyama.qosfile import QosFileError, book_from_mapping, book_to_mapping
from niyama.wording import one_line, shown

FORMAT = 1
"""Version of the file; a field that is added does not raise it, one that changes its meaning does."""

_MARK = "niyama_records"


class RecordsError(ValueError):
    """Records that cannot be used; the text is one line: file, line, what is wrong."""


@dataclass(slots=True, kw_only=True)
class Record:
    """One request, as planned and as the client saw it.

    Attributes:
        id: Unique in the run; the server saw `x-request-id: RUN_ID-ID`.
        qos_class: The class that was asked for (`class` in the file).
        carrier: How the class was asked for; `none` if it was not.
        num_prompt_tokens: Tokens that the prompt was to have.
        num_output_tokens: Tokens that the answer was to have.
        due_at: The planned instant; the request's arrival, whatever the client was busy with.
        sent_at: When the client began to send; None if it never did.
        token_at: When each output token came; tokens of one piece of the stream share an instant.
        finished_at: When the stream ended, in success or not.
        status: HTTP status; None without an answer.
        error: Why the answer is not whole, one line; None for a whole answer.
        has_left: Whether the client hung up on purpose; such a request is no error and is not scored.
        num_prompt_tokens_served: Prompt tokens by the server's count; None if it did not say.
        num_output_tokens_served: Output tokens by the server's count, or by ours.
        served_class: The class that the server said it used; None if it did not say.
    """

    id: str
    qos_class: str
    tenant: str = ""
    importance: Importance = Importance.NORMAL
    carrier: str = "none"
    num_prompt_tokens: int
    num_output_tokens: int
    due_at: float
    sent_at: float | None = None
    token_at: list[float] = field(default_factory=list)
    finished_at: float | None = None
    status: int | None = None
    error: str | None = None
    has_left: bool = False
    num_prompt_tokens_served: int | None = None
    num_output_tokens_served: int | None = None
    served_class: str | None = None

    @property
    def first_at(self) -> float | None:
        """When the first token came."""
        return self.token_at[0] if self.token_at else None

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end."""
        return self.error is None and not self.has_left and bool(self.token_at)

    def to_json(self) -> dict[str, Any]:
        """Return the line of the file; instants are rounded to microseconds."""
        line: dict[str, Any] = {}
        for name in _FIELDS:
            value = getattr(self, name)
            if isinstance(value, Importance):
                value = value.name.lower()
            elif isinstance(value, float):
                value = round(value, 6)
            elif isinstance(value, list):
                value = [round(at, 6) for at in value]
            line[_in_file(name)] = value
        return line


_FIELDS = tuple(field.name for field in fields(Record))


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What was run.

    Attributes:
        run_id: Begins every `x-request-id` of the run.
        target: URL, endpoint, model, and what the server is (`niyama.bench.target.Target.to_json`).
        versions: Of niyama, of the server's vLLM and of Python, by name.
        seed: Of all random streams.
        book: The classes by which the run is judged.
        workload: Trace, arrivals, rate, mix, lengths: what the command line said.
        started_at: Wall-clock start, seconds since the epoch.
        started_monotonic: The same instant on the client's CLOCK_MONOTONIC; a server on the same
            machine stamps its step log with that clock.
    """

    run_id: str
    target: Mapping[str, Any]
    versions: Mapping[str, str]
    seed: int
    book: QosBook
    workload: Mapping[str, Any]
    started_at: float
    started_monotonic: float

    def to_json(self) -> dict[str, Any]:
        """Return the first line of the file."""
        values = {name: getattr(self, name) for name in _HEADER_FIELDS}
        values["book"] = book_to_mapping(self.book)
        return {_MARK: FORMAT, **values}


_HEADER_FIELDS = tuple(field.name for field in fields(Header))


def write_records(path: str | Path, header: Header, records: Iterable[Record]) -> None:
    """Write a run. Raises OSError."""
    with open(path, "w", encoding="utf-8") as file:
        for line in (header.to_json(), *(record.to_json() for record in records)):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_records(path: str | Path) -> tuple[Header, list[Record]]:
    """Return a run. Unknown fields are passed over.

    Raises:
        RecordsError: the file cannot be read or holds something else.
    """
    records: list[Record] = []
    header: Header | None = None
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                if header is None:
                    header = _header(_object(line, where), where)
                elif line.strip():
                    records.append(_record(_object(line, where), where))
    except OSError as error:
        raise RecordsError(one_line(f"{path}: cannot read the records: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise RecordsError(one_line(f"{path}: not UTF-8 text")) from None
    if header is None:
        raise RecordsError(one_line(f"{path}: empty; allowed: records of `niyama bench`"))
    return header, records


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise RecordsError(one_line(f"{where}: not JSON: {error}")) from None
    if not isinstance(values, dict):
        raise RecordsError(one_line(f"{where}: {shown(values)} is no record; allowed: a JSON object"))
    return values


def _header(values: dict[str, Any], where: str) -> Header:
    if values.get(_MARK) != FORMAT:
        found = shown(values.get(_MARK))
        raise RecordsError(one_line(f"{where}: {_MARK}: {found} is unknown; allowed: {FORMAT}"))
    try:
        known = {name: values[name] for name in _HEADER_FIELDS}
        return Header(**{**known, "book": book_from_mapping(values["book"])})
    except KeyError as error:
        raise RecordsError(one_line(f"{where}: no field {error.args[0]}")) from None
    except QosFileError as error:
        raise RecordsError(one_line(f"{where}: book: {error}")) from None


_COUNTS = ("num_prompt_tokens", "num_output_tokens")
_INSTANTS = ("due_at",)
_MAY_BE_NONE = ("sent_at", "finished_at")


def _record(values: dict[str, Any], where: str) -> Record:
    known = {name: values[_in_file(name)] for name in _FIELDS if _in_file(name) in values}
    for name in (*_COUNTS, *_INSTANTS, *_MAY_BE_NONE):
        value = known.get(name)
        if value is None and name in _MAY_BE_NONE:
            continue
        if not _is_number(value):
            raise RecordsError(one_line(f"{where}: {name}: {shown(value)} is no number"))
    instants = known.get("token_at", [])
    if not (isinstance(instants, list) and all(map(_is_number, instants))):
        raise RecordsError(one_line(f"{where}: token_at: not a list of instants"))
    try:
        known["importance"] = Importance[str(known.get("importance", "normal")).upper()]
        return Record(**known)
    except (KeyError, TypeError) as error:
        raise RecordsError(one_line(f"{where}: not a record: {error}")) from None


def _in_file(name: str) -> str:
    return "class" if name == "qos_class" else name


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
