"""Reads a decision log (`niyama serve --decision-log`), call by call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from niyama.scheduling.recording import Call
from niyama.wording import shown

FORMAT = "niyama-decisions"
VERSION = 1

_FIELDS: dict[str, tuple[str, ...]] = {
    "start": ("settings", "engine", "wall_at", "monotonic_at"),
    "fresh": (),
    "arrive": ("now_s", "request"),
    "depart": ("now_s", "request_id", "finished"),
    "cached": ("now_s", "request_id", "num_tokens"),
    "plan": ("now_s", "limits", "plan"),
    "begin": ("at", "prefills", "shape", "stalled", "preempted"),
    "observe": ("started_at", "ended_at", "completed", "extra_tokens", "is_clean"),
    "realised": ("causes",),
}


class DecisionLogError(ValueError):
    """A decision log that cannot be used; the message is one line and names file and line."""


def read_calls(path: Path) -> Iterator[Call]:
    """Yield the calls of a log in their order.

    A killed engine leaves a line that is cut off. It is left out where an engine's part of the log ends:
    as the last line, without a newline, and directly before a `start`.

    Raises:
        DecisionLogError: it does not begin with a `start` of a known version, or a line is no call.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        yield from parse_calls(lines, str(path))


def parse_calls(lines: Iterable[str], name: str) -> Iterator[Call]:
    """Yield the calls in the lines of a log; blank ones pass. Raises DecisionLogError, see `read_calls`."""
    is_started = False
    for where, call in _objects(lines, name):
        kind = _kind(call, where)
        if kind == "start":
            _check_version(call, where)
            is_started = True
        elif not is_started:
            raise DecisionLogError(f"{where}: call: {kind!r} comes before `start`; is this the whole log?")
        yield call
    if not is_started:
        raise DecisionLogError(f"{name}: empty; give the file that a server wrote with --decision-log")


def parts_of(calls: Iterable[Call]) -> list[list[Call]]:
    """Return the calls of each server that wrote to a log, in turn: each begins with its `start`.

    A log is appended to, and a server that is started again has other limits, clocks and policy.
    """
    parts: list[list[Call]] = []
    for call in calls:
        if call["call"] == "start" or not parts:
            parts.append([])
        parts[-1].append(call)
    return parts


def _objects(lines: Iterable[str], name: str) -> Iterator[tuple[str, Any]]:
    """Yield what each line holds, and where it is; what a killed engine left half written is left out."""
    torn: DecisionLogError | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            held = json.loads(line)
        except ValueError as error:
            if torn is not None:
                raise torn from None
            if not line.endswith("\n"):
                return
            torn = DecisionLogError(f"{where}: not JSON: {error}")
            continue
        if torn is not None and not (isinstance(held, dict) and held.get("call") == "start"):
            raise torn
        torn = None
        yield where, held
    if torn is not None:
        raise torn


def _kind(call: Any, where: str) -> str:
    """Return which call a line holds. Raises DecisionLogError if it is none, or not whole."""
    kind = call.get("call") if isinstance(call, dict) else None
    if kind not in _FIELDS:
        raise DecisionLogError(f"{where}: {shown(call)}: a line is an object with `call`, one of {_known()}")
    missing = [key for key in _FIELDS[kind] if key not in call]
    if missing:
        raise DecisionLogError(f"{where}: {missing[0]}: missing in a call {kind!r}")
    return str(kind)


def _check_version(start: dict[str, Any], where: str) -> None:
    found = (start.get("format"), start.get("version"))
    if found != (FORMAT, VERSION):
        raise DecisionLogError(
            f"{where}: format: {shown(found[0])} version {shown(found[1])} is unknown; "
            f"allowed: {FORMAT!r} version {VERSION}"
        )


def _known() -> str:
    return ", ".join(_FIELDS)
