"""When each decoding request's next token is due (paper, sections on slack and dynamic chunking).

Token n of a request is due at ``anchor + (n - 1) * pace``. All requests of one pace move forward
together: a request in launch number l must emit by ``base + l * pace`` where `base` never changes
while it gets one token per launch. So a heap of bases per pace gives the tightest request of that
pace, and nothing is done per request and step. Joining, leaving and correcting cost O(log n). The classes
have few paces; clients with a TBT of their own each add a heap that is looked at in every step.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Final

GRID_PER_OCTAVE: Final = 4
"""Individual paces are rounded down to this grid, so that there are few heaps."""

PACE_CAP_S: Final = 1.0
"""A slower pace never binds: no step is that long, so slack only grows."""


STALE_SHARE: Final = 2
MIN_HEAP: Final = 64
"""A heap is cleared of entries that no longer hold when it has grown this far beyond its members."""


def on_grid(pace_s: float) -> float:
    """Return the largest grid pace at most `pace_s`, capped; pace_s > 0."""
    if pace_s >= PACE_CAP_S:
        return PACE_CAP_S
    return float(2.0 ** (math.floor(math.log2(pace_s) * GRID_PER_OCTAVE) / GRID_PER_OCTAVE))


class _Member:
    """A decoding request: its token of launch l is due at ``base + l * pace_s``."""

    __slots__ = ("base", "pace_s")

    def __init__(self, pace_s: float, base: float) -> None:
        self.pace_s = pace_s
        self.base = base


class Pacer:
    """Due times of the next token of every member."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._heaps: dict[float, list[tuple[float, str]]] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._members

    def __len__(self) -> int:
        return len(self._members)

    def join(self, request_id: str, pace_s: float, due_at: float, launch: int) -> None:
        """Make the token of `launch` due at `due_at` and each further one `pace_s` later."""
        self._put(request_id, pace_s, due_at - launch * pace_s)

    def leave(self, request_id: str) -> None:
        """Forget a member; unknown ids pass."""
        self._members.pop(request_id, None)

    def shift(self, request_id: str, num_tokens: int) -> None:
        """Count tokens beyond (or, negative, short of) one per launch for a member."""
        member = self._members.get(request_id)
        if member is not None:
            self._put(request_id, member.pace_s, member.base + num_tokens * member.pace_s)

    def due_at(self, request_id: str, launch: int) -> float:
        """Return when the member's token of `launch` is due. Raises KeyError for a stranger."""
        member = self._members[request_id]
        return member.base + launch * member.pace_s

    def tightest(self, launch: int) -> float:
        """Return the earliest due time over all tokens of `launch`; infinite if there are none."""
        earliest = math.inf
        for pace_s, heap in self._heaps.items():
            base = self._first_base(pace_s, heap)
            if base + launch * pace_s < earliest:
                earliest = base + launch * pace_s
        return earliest

    def take_late(self, launch: int, ended_at: float) -> list[tuple[str, float, float]]:
        """Remove and return the members whose token of `launch` came out too late.

        Returns:
            (id, pace, due time) of each, the latest first within a pace. Costs O(log n) each.
        """
        late: list[tuple[str, float, float]] = []
        idle: list[float] = []
        for pace_s, heap in self._heaps.items():
            base = self._first_base(pace_s, heap)
            while base + launch * pace_s < ended_at:
                _, request_id = heapq.heappop(heap)
                del self._members[request_id]
                late.append((request_id, pace_s, base + launch * pace_s))
                base = self._first_base(pace_s, heap)
            if not heap:
                idle.append(pace_s)
        for pace_s in idle:
            del self._heaps[pace_s]
        return late

    def all_due(self, launch: int) -> Iterator[tuple[str, float]]:
        """Yield every member and when its token of `launch` is due. O(members); for reports."""
        for request_id, member in self._members.items():
            yield request_id, member.base + launch * member.pace_s

    def _put(self, request_id: str, pace_s: float, base: float) -> None:
        self._members[request_id] = _Member(pace_s, base)
        if pace_s not in self._heaps:
            self._drop_idle()
        heap = self._heaps.setdefault(pace_s, [])
        heapq.heappush(heap, (base, request_id))
        if len(heap) > STALE_SHARE * len(self._members) + MIN_HEAP:
            heap[:] = {entry for entry in heap if self._holds(pace_s, entry[0], entry[1])}
            heapq.heapify(heap)

    def _drop_idle(self) -> None:
        """Forget paces that nobody has, once most are such. O(1) on average."""
        if len(self._heaps) > STALE_SHARE * len(self._members) + MIN_HEAP:
            for pace_s in [p for p, heap in self._heaps.items() if self._first_base(p, heap) == math.inf]:
                del self._heaps[pace_s]

    def _first_base(self, pace_s: float, heap: list[tuple[float, str]]) -> float:
        """Return the earliest base of a pace, infinite if there is none; drop who left or moved."""
        while heap:
            base, request_id = heap[0]
            if self._holds(pace_s, base, request_id):
                return base
            heapq.heappop(heap)
        return math.inf

    def _holds(self, pace_s: float, base: float, request_id: str) -> bool:
        """Whether this is where a member stands."""
        member = self._members.get(request_id)
        return member is not None and member.base == base and member.pace_s == pace_s
