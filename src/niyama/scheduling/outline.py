"""A backlog in a few numbers, as a replica would report it to a router.

Marks stand in the order of service where the work ahead reaches 0.1 s, 0.125 s and so on, each a quarter
further than the last, so a few dozen tell of any backlog where a newcomer would stand, to a quarter of
the work ahead of it. Never too well: work that may be behind it counts as ahead, and who may be behind
it counts as behind.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from niyama.scheduling.backlog import Backlog, FullKey, Item

FIRST_LEVEL_S: Final = 0.1
LEVEL_RATIO: Final = 1.25
INFINITE_S: Final = float("inf")


class Place:
    """Where a newcomer would stand.

    Attributes:
        before_s: Work ahead of it, at most, seconds.
        latest_at: Latest instant at which all behind it could start and be in time, at the latest.
    """

    __slots__ = ("before_s", "latest_at")

    def __init__(self, before_s: float, latest_at: float) -> None:
        self.before_s = before_s
        self.latest_at = latest_at


class Outline:
    """Marks in the order of service: a key, the work before it, the margin of those behind it."""

    __slots__ = ("_before_s", "_behind_at", "_keys", "_last", "_latest_at", "total_s")

    def __init__(self, backlog: Backlog) -> None:
        """Take the marks. O(log n) each, and there are O(log of the work)."""
        self.total_s = backlog.total_s
        self._keys: list[FullKey] = []
        self._before_s: list[float] = []
        self._behind_at: list[float] = []
        self._latest_at = backlog.margin
        self._last: FullKey | None = None
        root = backlog._root
        if root is None:
            return
        level_s = 0.0
        while level_s <= self.total_s:
            reached_s = self._mark(root, level_s)
            level_s = max(FIRST_LEVEL_S, level_s * LEVEL_RATIO)
            # The tree's sums and ours may differ in the last bit: then nothing is left to mark.
            while level_s <= reached_s < INFINITE_S:
                level_s *= LEVEL_RATIO
        node = root
        while node.right is not None:
            node = node.right
        self._last = node.key

    def place(self, key: FullKey) -> Place:
        """Return where a newcomer with this key would stand. O(log marks)."""
        if self._last is None or key > self._last:
            return Place(self.total_s, INFINITE_S)
        number = bisect_right(self._keys, key)
        before_s = self._before_s[number] if number < len(self._keys) else self.total_s
        return Place(before_s, self._behind_at[number - 1] if number else self._latest_at)

    def _mark(self, root: Item, level_s: float) -> float:
        """Mark the first item with which so much work is done; return the work up to its end."""
        node: Item | None = root
        before_s, latest_at = 0.0, INFINITE_S
        while node is not None:
            left, right = node.left, node.right
            left_s = 0.0 if left is None else left.sum_s
            upto_s = before_s + left_s + node.work_s
            if upto_s < level_s:
                before_s, node = upto_s, right
                continue
            behind_at = latest_at if right is None else min(latest_at, right.margin - upto_s)
            if left is None or before_s + left_s < level_s:
                self._keys.append(node.key)
                self._before_s.append(upto_s - node.work_s)
                self._behind_at.append(behind_at)
                return upto_s
            latest_at, node = min(behind_at, node.due_at - upto_s), left
        return INFINITE_S
