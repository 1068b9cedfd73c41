"""One seed, and an independent random stream per purpose derived from it.

A purpose that draws more or less leaves the others as they were, so that two workloads which differ
in one respect are equal in all others (common random numbers).
"""

from __future__ import annotations

import random


def stream(seed: int, purpose: str) -> random.Random:
    """Return the stream of a purpose; equal arguments give equal draws on every platform."""
    return random.Random(f"{seed}/{purpose}")
