"""How error messages show what they refuse: on one line and never longer than a line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping

_MOST_NAMES = 12


def shown(value: object) -> str:
    """Return a value from outside as text for a message, at most about 40 characters long."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return reprlib.repr(value)
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def listed(names: Iterable[str]) -> str:
    """Return names for the "allowed" part of a message, the first dozen of them."""
    every = list(names)
    text = ", ".join(every[:_MOST_NAMES])
    return text if len(every) <= _MOST_NAMES else f"{text} and {len(every) - _MOST_NAMES} more"


def one_line(text: str) -> str:
    """Return the text with every run of white space, line ends included, as one blank."""
    return " ".join(text.split())
