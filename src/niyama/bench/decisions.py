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
    """Yield the calls of a log in their order; a torn last line, of a killed engine, is left out.

    Raises:
        DecisionLogError: it does not begin with a `start` of a known version, or a line is no call.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        yield from parse_calls(lines, str(path))


def parse_calls(lines: Iterable[str], name: str) -> Iterator[Call]:
    """Yield the calls in the lines of a log. Raises DecisionLogError, see `read_calls`."""
    is_started = False
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        try:
            call = json.loads(line)
        except ValueError as error:
            if not line.endswith("\n"):
                return
            raise DecisionLogError(f"{where}: not JSON: {error}") from None
        kind = call.get("call") if isinstance(call, dict) else None
        if kind not in _FIELDS:
            raise DecisionLogError(
                f"{where}: {shown(call)}: a line is an object with `call`, one of {_known()}"
            )
        missing = [key for key in _FIELDS[kind] if key not in call]
        if missing:
            raise DecisionLogError(f"{where}: {missing[0]}: missing in a call {kind!r}")
        if kind == "start":
            _check_version(call, where)
            is_started = True
        elif not is_started:
            raise DecisionLogError(f"{where}: call: {kind!r} comes before `start`; is this the whole log?")
        yield call
    if not is_started:
        raise DecisionLogError(f"{name}: empty; give the file that a server wrote with --decision-log")


def _check_version(start: dict[str, Any], where: str) -> None:
    found = (start.get("format"), start.get("version"))
    if found != (FORMAT, VERSION):
        raise DecisionLogError(
            f"{where}: format: {shown(found[0])} version {shown(found[1])} is unknown; "
            f"allowed: {FORMAT!r} version {VERSION}"
        )


def _known() -> str:
    return ", ".join(_FIELDS)
