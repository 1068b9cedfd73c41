"""The prefills still to be done, in order, with what a feasibility test needs at hand.

A treap: a search tree by key whose shape is fixed by a hash of the ids, so that neither the order
of arrival nor the history changes a single bit of what it answers (L6, L11). Every node carries,
for its subtree, the sum of work, the tightest margin and the first candidate to be set aside;
so "would everybody be in time if served in this order?" costs O(1) and "who is the first that
would not?" costs O(log n).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from zlib import crc32

Key = tuple[float, ...]
"""Order of service, smaller first, of one length within a backlog; the id breaks ties."""

FullKey = tuple[Key, str]

Victim = tuple[float | str, ...]
"""Who goes first when somebody must: (importance and standing, priority, work, id), the largest."""


class Item:
    """One prefill in the backlog.

    Attributes:
        work_s: Engine time that it still needs, seconds.
        due_at: Instant by which it must be done; infinite if none.
    """

    __slots__ = (
        "due_at",
        "heat",
        "key",
        "left",
        "margin",
        "rank",
        "request_id",
        "right",
        "sum_s",
        "victim",
        "work_s",
        "worst",
    )

    def __init__(
        self, request_id: str, key: Key, work_s: float, due_at: float, rank: tuple[int, int]
    ) -> None:
        self.request_id = request_id
        self.heat = crc32(request_id.encode())
        self.left: Item | None = None
        self.right: Item | None = None
        self.assign(key, work_s, due_at, rank)
        self.sum_s = work_s
        self.margin = due_at - work_s
        self.worst = self.victim

    def assign(self, key: Key, work_s: float, due_at: float, rank: tuple[int, int]) -> None:
        """Take new values; what depends on the subtree is for `refresh`."""
        self.key: FullKey = (key, self.request_id)
        self.work_s = work_s
        self.due_at = due_at
        self.rank = rank
        self.victim: Victim = (rank[0], rank[1], work_s, self.request_id)

    def refresh(self) -> None:
        """Recompute what the node knows of its subtree from its children."""
        left, right = self.left, self.right
        total, worst = self.work_s, self.victim
        margin = math.inf
        if left is not None:
            total += left.sum_s
            margin = left.margin
            if left.worst > worst:
                worst = left.worst
        if self.due_at - total < margin:
            margin = self.due_at - total
        if right is not None:
            if right.margin - total < margin:
                margin = right.margin - total
            if right.worst > worst:
                worst = right.worst
            total += right.sum_s
        self.sum_s, self.margin, self.worst = total, margin, worst


class Backlog:
    """An ordered set of `Item`, by key. All operations are O(log n) but where stated."""

    def __init__(self) -> None:
        self._root: Item | None = None
        self._items: dict[str, Item] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._items

    def __iter__(self) -> Iterator[str]:
        """Yield ids in order of service; O(1) each after O(log n)."""
        stack: list[Item] = []
        node = self._root
        while stack or node is not None:
            while node is not None:
                stack.append(node)
                node = node.left
            node = stack.pop()
            yield node.request_id
            node = node.right

    def put(
        self, request_id: str, key: Key, work_s: float, due_at: float, rank: tuple[int, int] = (0, 0)
    ) -> None:
        """Insert, or move, a request.

        Args:
            request_id: The request.
            key: Order of service.
            work_s: Engine time it needs, seconds, >= 0.
            due_at: When it must be done.
            rank: (importance and standing, priority): the largest is set aside first.
        """
        item = self._items.get(request_id)
        if item is None:
            item = self._items[request_id] = Item(request_id, key, work_s, due_at, rank)
            self._root = _insert(self._root, item)
        elif item.key[0] != key or item.work_s != work_s or item.due_at != due_at or item.rank != rank:
            self._change(item, key, work_s, due_at, rank)

    def _change(self, item: Item, key: Key, work_s: float, due_at: float, rank: tuple[int, int]) -> None:
        """Give an item new values; mostly it keeps its place, and only sums above it change."""
        path, _ = _path_to(self._root, item)
        if item.key[0] == key or _has_place(path, item, (key, item.request_id)):
            item.assign(key, work_s, due_at, rank)
            item.refresh()
            self._root = _attach(path, item.key, item)
        else:
            self._root = _attach(path, item.key, _merge(item.left, item.right))
            item.assign(key, work_s, due_at, rank)
            self._root = _insert(self._root, item)

    def discard(self, request_id: str) -> None:
        """Remove a request; unknown ids pass."""
        item = self._items.pop(request_id, None)
        if item is not None:
            self._root = _remove(self._root, item)

    def item(self, request_id: str) -> Item:
        """Return a request's item. Raises KeyError."""
        return self._items[request_id]

    def after(self, key: FullKey | None) -> Item | None:
        """Return the first item behind a key, or the first of all; None at the end."""
        node, found = self._root, None
        while node is not None:
            if key is None or key < node.key:
                node, found = node.left, node
            else:
                node = node.right
        return found

    @property
    def total_s(self) -> float:
        """Engine time of everything, seconds. O(1)."""
        return self._root.sum_s if self._root is not None else 0.0

    @property
    def margin(self) -> float:
        """Latest instant at which service may start with everybody in time. O(1)."""
        return self._root.margin if self._root is not None else math.inf

    def first_late(self, now_s: float) -> Item | None:
        """Return the first, in order, that would be late if service started now."""
        node, before = self._root, 0.0
        while node is not None:
            if node.margin - before >= now_s:
                return None
            left = node.left
            if left is not None and left.margin - before < now_s:
                node = left
                continue
            upto = before + node.work_s + (left.sum_s if left is not None else 0.0)
            if node.due_at - upto < now_s:
                return node
            node, before = node.right, upto
        return None

    def victim_until(self, item: Item) -> Item:
        """Return who is to be set aside among `item` and all before it."""
        worst = item.victim
        node = self._root
        while node is not None:
            if item.key < node.key:
                node = node.left
                continue
            worst = max(worst, node.victim)
            if node.left is not None:
                worst = max(worst, node.left.worst)
            node = node.right
        return self._items[str(worst[3])]

    def fits(self, request_id: str, key: Key, work_s: float, due_at: float, now_s: float) -> bool:
        """Whether a newcomer, and everybody behind it, would be in time with it inserted."""
        full: FullKey = (key, request_id)
        before, rest, node = work_s, math.inf, self._root
        while node is not None:
            left = node.left
            upto = node.work_s + (left.sum_s if left is not None else 0.0)
            if full < node.key:
                # The node and everything right of it are delayed by the newcomer.
                rest = min(rest, node.due_at - upto - before)
                if node.right is not None:
                    rest = min(rest, node.right.margin - upto - before)
                node = left
            else:
                before += upto
                node = node.right
        return due_at - before >= now_s and rest >= now_s


def _path_to(root: Item | None, item: Item) -> tuple[list[Item], Item | None]:
    """Return the nodes above the place of `item`, and what is there: itself, or what it displaces."""
    path: list[Item] = []
    key, heat, node = item.key, item.heat, root
    while node is not None and (node.heat > heat or (node.heat == heat and node.key > key)):
        path.append(node)
        node = node.left if key < node.key else node.right
    return path, node


def _attach(path: list[Item], key: FullKey, subtree: Item | None) -> Item | None:
    """Hang a subtree below a path and refresh the path; return the root."""
    for node in reversed(path):
        if key < node.key:
            node.left = subtree
        else:
            node.right = subtree
        node.refresh()
        subtree = node
    return subtree


def _insert(root: Item | None, item: Item) -> Item | None:
    path, node = _path_to(root, item)
    item.left, item.right = _split(node, item.key)
    item.refresh()
    return _attach(path, item.key, item)


def _has_place(path: list[Item], item: Item, key: FullKey) -> bool:
    """Whether `key` lies between the neighbours of an item, which is below `path`."""
    for node in path:
        if (item.key < node.key) != (key < node.key):
            return False
    before, behind = item.left, item.right
    while before is not None and before.right is not None:
        before = before.right
    while behind is not None and behind.left is not None:
        behind = behind.left
    return (before is None or before.key < key) and (behind is None or key < behind.key)


def _remove(root: Item | None, item: Item) -> Item | None:
    path, _ = _path_to(root, item)
    return _attach(path, item.key, _merge(item.left, item.right))


def _split(node: Item | None, key: FullKey) -> tuple[Item | None, Item | None]:
    """Split into the nodes before `key` and the others."""
    if node is None:
        return None, None
    if node.key < key:
        node.right, others = _split(node.right, key)
        node.refresh()
        return node, others
    before, node.left = _split(node.left, key)
    node.refresh()
    return before, node


def _merge(left: Item | None, right: Item | None) -> Item | None:
    """Join two trees, all keys of `left` before those of `right`."""
    if left is None or right is None:
        return left if right is None else right
    if (left.heat, left.key) > (right.heat, right.key):
        left.right = _merge(left.right, right)
        left.refresh()
        return left
    right.left = _merge(left, right.left)
    right.refresh()
    return right
