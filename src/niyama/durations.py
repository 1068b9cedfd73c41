"""Durations as people write them, `50ms` or `10min`, to seconds and back, to the nanosecond."""

from __future__ import annotations

import re
from decimal import Decimal

from niyama.wording import shown

MAX_DURATION_S = 366 * 24 * 3600.0
"""The longest duration that means anything here; longer ones are typing errors."""

NUM_DECIMALS = 9
"""Of seconds. Coarser than a float, so that what is read can always be written and read again."""

_UNITS = {"h": Decimal(3600), "min": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_PATTERN = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(ms|s|min|h)", re.ASCII)


def parse_duration_s(value: object) -> float:
    """Return the seconds that a text such as `6s` or `0.5 h` means, to the nanosecond.

    Raises:
        ValueError: not such a text, below half a nanosecond, or longer than `MAX_DURATION_S`; one
            line with the value and what is allowed.
    """
    match = _PATTERN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a duration; allowed: a number with ms, s, min or h, e.g. 6s")
    seconds = round(float(Decimal(match[1]) * _UNITS[match[2]]), NUM_DECIMALS)
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(
            f"{shown(value)} is out of range; allowed: more than 0s and at most 366 days (8784h)"
        )
    return seconds


def format_duration(seconds: float) -> str:
    """Return a text that `parse_duration_s` reads as these seconds, in the largest whole unit.

    What it has read itself comes back exactly, all else to the nanosecond.

    Raises:
        ValueError: the seconds are not in (0, `MAX_DURATION_S`], or below half a nanosecond.
    """
    rounded = round(float(seconds), NUM_DECIMALS)
    if not 0 < rounded <= MAX_DURATION_S:
        raise ValueError(f"{seconds!r} s is out of range; allowed: more than 0 s and at most 366 days")
    exact = Decimal(repr(rounded))
    for unit, size in _UNITS.items():
        count = exact / size
        if count == count.to_integral_value():
            return f"{count:.0f}{unit}"
    return f"{exact:f}s"
