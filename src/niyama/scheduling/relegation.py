"""Eager relegation: who waits so that all others are in time (paper, "Eager relegation").

The backlog in order of service tells whether everybody would be in time if served one after the
other. If not, somebody at or before the first who would be late is set aside: the least important
there, among equals who is most beyond its tenant's share (`shares`), then the one with the most
work, so that the fewest are late (Moore, 1968, one machine, minimum number of late jobs). A request
that would be late even if served at once is set aside itself. It is never dropped: it gets what the
others leave, and is taken back as soon as everybody would still be in time with it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from niyama.scheduling.backlog import Backlog, Item
from niyama.scheduling.shares import WITHIN

RESTORE_HEADROOM: Final = 1.1
"""A request is taken back only if this much of its work fits, or it would go to and fro."""

STALE_SHARE: Final = 2
STALE_FLOOR: Final = 64
"""Queues are cleared of who is no longer in when they have grown this far beyond those who are."""

RESTORE_TRIES: Final = 4
"""Requests examined per step; the others have their turn in the steps after."""


def find_victim(backlog: Backlog, late: Item, now_s: float) -> Item:
    """Return who is to be set aside, where `late` is the first who would be late. O(log n)."""
    if late.due_at - late.work_s < now_s:
        return late
    return backlog.victim_until(late)


class _Candidate:
    """One stay among the relegated; the item follows the request's progress."""

    __slots__ = ("item",)

    def __init__(self, item: Item) -> None:
        self.item = item


class Relegated:
    """The requests that were set aside and may still come back, by importance and share."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[_Candidate]] = {}
        self._candidates: dict[str, _Candidate] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    def add(self, item: Item) -> None:
        """Remember a request that was set aside."""
        candidate = self._candidates[item.request_id] = _Candidate(item)
        self._queues.setdefault(item.rank[0] // WITHIN, deque()).append(candidate)
        if sum(map(len, self._queues.values())) > STALE_SHARE * len(self._candidates) + STALE_FLOOR:
            for place, queue in self._queues.items():
                self._queues[place] = deque([c for c in queue if self._is_live(c)])

    def update(self, item: Item) -> None:
        """Take note of the work and the order of a request now; unknown ones pass. O(1)."""
        candidate = self._candidates.get(item.request_id)
        if candidate is not None:
            candidate.item = item

    def discard(self, request_id: str) -> None:
        """Forget a request that departed or was served meanwhile; unknown ids pass."""
        self._candidates.pop(request_id, None)

    def _is_live(self, candidate: _Candidate) -> bool:
        return self._candidates.get(candidate.item.request_id) is candidate

    def take_fitting(self, backlog: Backlog, now_s: float) -> list[Item]:
        """Return requests for which there is room again, the important first. O(log n).

        The caller puts each into the backlog; so at most one is returned per call that fits
        into the backlog as it is. Requests that are late by now are forgotten; others are not, for the
        time that their work takes is an estimate, and it becomes less as they get what others leave.
        """
        if not self._candidates:
            return []
        tries = RESTORE_TRIES
        for importance in sorted(self._queues):
            queue = self._queues[importance]
            left = max(1, tries)  # everybody gets a try, however many stand before
            for _ in range(len(queue)):
                if left == 0:
                    break
                candidate = queue.popleft()
                item = candidate.item
                if not self._is_live(candidate):
                    continue
                left, tries = left - 1, tries - 1
                work_s = item.work_s * RESTORE_HEADROOM
                if item.due_at < now_s:
                    del self._candidates[item.request_id]
                elif backlog.fits(item.request_id, item.key[0], work_s, item.due_at, now_s):
                    del self._candidates[item.request_id]
                    return [item]
                else:
                    queue.append(candidate)
        return []
