"""Requests for the engine tests; the same seed gives the same requests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tests.engine.rig import Ask

CLASSES = ("interactive", "batch", "background")

TIGHT_BOOK: dict[str, Any] = {
    "default": "now",
    "classes": {
        "now": {"ttft": "1ms", "tbt": "1ms"},
        "soon": {"ttft": "80ms", "tbt": "4ms", "importance": "high"},
        "later": {"ttlt": "2s", "importance": "low"},
    },
}
"""Promises that cannot all be kept: requests are relegated and held."""

# Ids of words; those below are special tokens and single bytes.
_FIRST_WORD, _NUM_TOKENS = 300, 2000


def prompt(num_tokens: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(_FIRST_WORD, _NUM_TOKENS) for _ in range(num_tokens)]


def asks(
    count: int,
    prompts: tuple[int, int] = (20, 200),
    outputs: tuple[int, int] = (2, 24),
    classes: Sequence[str] = CLASSES,
    seed: int = 0,
) -> list[Ask]:
    """Return requests whose lengths are drawn from the two ranges, the classes in turn."""
    draw = random.Random(seed)
    return [
        Ask(
            name=f"r{number}",
            prompt=prompt(draw.randint(*prompts), seed=seed * 10_000 + number),
            max_tokens=draw.randint(*outputs),
            qos_class=classes[number % len(classes)],
        )
        for number in range(count)
    ]
