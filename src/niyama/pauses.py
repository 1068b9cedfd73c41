"""Full garbage collections, kept out of the way of those who wait for a token.

A full collection stops a process for as long as it takes to walk all its live objects, and Python starts one
whenever those that survived have grown by a quarter. With some hundred open streams an API process was
seen to stand still for 60 to 450 ms each time, two or three times a minute as its queue grew; whoever was
promised a token every 100 ms was then late. So full collections wait until nobody is waiting. Young
garbage is still collected as ever, and what no cycle holds never needed collecting.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

NEVER: Final = 2**31 - 1
"""The largest threshold that the interpreter takes."""

DUE: Final = 10
"""A full collection is worth its while after so many of the middle generation; Python's own measure."""

QUIET_S: Final = 0.2
"""With no request open for so long, nobody is in between two."""

LONGEST_S: Final = 600.0
"""A process that is never quiet collects this often all the same, so that memory stays bounded."""


@contextmanager
def no_full_collections() -> Iterator[None]:
    """Freeze what is there, and let only young garbage be collected until the block ends."""
    young, middle, full = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(young, middle, NEVER)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, full)
        gc.unfreeze()


class QuietCollector:
    """Collects when no request is open; every method runs in the event loop's thread.

    Args:
        collect: Does a full collection.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, collect: Callable[[], object] = gc.collect, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._collect = collect
        self._clock = clock
        self._num_open = 0
        self._collected_at: float | None = None
        self._soon: asyncio.TimerHandle | None = None

    @contextmanager
    def open_request(self) -> Iterator[None]:
        """Count a request as open for as long as the block runs."""
        self._num_open += 1
        if self._collected_at is None:
            self._take_over()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        try:
            yield
        finally:
            self._num_open -= 1
            self._closed()

    def _take_over(self) -> None:
        """From the first request on: the server has frozen what it has built by then."""
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)
        self._collected_at = self._clock()

    def _closed(self) -> None:
        if self._num_open == 0:
            self._soon = asyncio.get_running_loop().call_later(QUIET_S, self._run)
        elif self._collected_at is not None and self._clock() - self._collected_at > LONGEST_S:
            self._run()

    def _run(self) -> None:
        if gc.get_count()[2] >= DUE:
            self._collect()
            self._collected_at = self._clock()
