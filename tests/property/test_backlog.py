"""The backlog against a sorted list that counts everything anew."""

from __future__ import annotations

import math
import os
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from niyama.scheduling.backlog import Backlog, Item
from niyama.scheduling.laws import check_backlog

# Whole numbers, so that sums are exact in any order of summation.
WHOLE = st.integers(0, 40).map(float)
ENTRIES = st.tuples(
    st.integers(0, 25).map(lambda n: f"r{n}"),
    st.tuples(WHOLE, WHOLE),
    WHOLE,
    st.integers(-5, 200).map(float) | st.just(math.inf),
    st.tuples(st.integers(0, 2), st.integers(-1, 1)),
)
Entry = tuple[str, tuple[float, float], float, float, tuple[int, int]]
CHANGES = st.lists(st.tuples(st.booleans(), ENTRIES), max_size=60)


class Naive:
    """What a backlog means."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def in_order(self) -> list[Entry]:
        return sorted(self.entries.values(), key=lambda e: (e[1], e[0]))

    def slacks(self, now_s: float) -> list[tuple[Entry, float]]:
        done_at, slacks = now_s, []
        for entry in self.in_order():
            done_at += entry[2]
            slacks.append((entry, entry[3] - done_at))
        return slacks

    def first_late(self, now_s: float) -> str | None:
        return next((entry[0] for entry, slack_s in self.slacks(now_s) if slack_s < 0), None)

    def victim_until(self, request_id: str) -> str:
        last = self.entries[request_id]
        before = [e for e in self.in_order() if (e[1], e[0]) <= (last[1], last[0])]
        return max(before, key=lambda e: (*e[4], e[2], e[0]))[0]

    def is_delayed_by(self, newcomer: Entry, now_s: float) -> bool:
        """Whether the newcomer is late, or anybody behind it becomes so."""
        model = Naive()
        model.entries = {**self.entries, newcomer[0]: newcomer}
        slacks = model.slacks(now_s)
        place = [entry[0] for entry, _ in slacks].index(newcomer[0])
        return any(slack_s < 0 for _, slack_s in slacks[place:])


def _apply(changes: list[tuple[bool, Entry]]) -> tuple[Backlog, Naive]:
    backlog, naive = Backlog(), Naive()
    for is_put, entry in changes:
        if is_put:
            backlog.put(*entry)
            naive.entries[entry[0]] = entry
        else:
            backlog.discard(entry[0])
            naive.entries.pop(entry[0], None)
    return backlog, naive


def _shape(node: Item | None) -> tuple[object, ...] | None:
    if node is None:
        return None
    return (node.request_id, node.sum_s, node.margin, node.worst, _shape(node.left), _shape(node.right))


@settings(max_examples=150)
@given(changes=CHANGES, now_s=st.integers(-20, 60).map(float))
def test_backlog_any_history_answers_like_a_sorted_list(
    changes: list[tuple[bool, Entry]], now_s: float
) -> None:
    backlog, naive = _apply(changes)
    check_backlog(backlog)
    assert list(backlog) == [entry[0] for entry in naive.in_order()]
    assert len(backlog) == len(naive.entries)
    assert backlog.total_s == sum(entry[2] for entry in naive.entries.values())
    assert backlog.margin == min((slack_s for _, slack_s in naive.slacks(0.0)), default=math.inf)
    late = backlog.first_late(now_s)
    assert (late.request_id if late else None) == naive.first_late(now_s)
    assert (late is None) == (backlog.margin >= now_s)
    for request_id in naive.entries:
        victim = backlog.victim_until(backlog.item(request_id))
        assert victim.request_id == naive.victim_until(request_id)


@settings(max_examples=150)
@given(changes=CHANGES, newcomer=ENTRIES, now_s=st.integers(-20, 60).map(float))
def test_fits_newcomer_only_if_nobody_from_its_place_on_is_late(
    changes: list[tuple[bool, Entry]], newcomer: Entry, now_s: float
) -> None:
    backlog, naive = _apply(changes)
    newcomer = ("new", *newcomer[1:])
    assert backlog.fits(*newcomer[:4], now_s) == (not naive.is_delayed_by(newcomer, now_s))


@given(changes=CHANGES)
def test_after_walks_the_whole_order(changes: list[tuple[bool, Entry]]) -> None:
    backlog, _ = _apply(changes)
    walked: list[str] = []
    item = backlog.after(None)
    while item is not None:
        walked.append(item.request_id)
        item = backlog.after(item.key)
    assert walked == list(backlog)


@given(
    entries=st.lists(ENTRIES, max_size=25, unique_by=lambda e: e[0]),
    scale=st.floats(0.001, 1000.0),
    data=st.data(),
)
def test_backlog_shape_and_sums_do_not_depend_on_history(
    entries: list[Entry], scale: float, data: st.DataObject
) -> None:
    """L6 and L11, to the last bit: sums of fractions depend on their order, so the shape must not vary."""
    entries = [(i, key, work_s * scale / 7, due_at, rank) for i, key, work_s, due_at, rank in entries]
    straight, winding = Backlog(), Backlog()
    for entry in entries:
        straight.put(*entry)
    for number, entry in enumerate(data.draw(st.permutations(entries))):
        winding.put("gone", (float(number), 0.0), 1.0, 0.0)
        winding.put(entry[0], (entry[1][1], float(number)), 3.3, 1.0)
        winding.put(*entry)
    winding.discard("gone")
    assert _shape(straight._root) == _shape(winding._root)


def test_backlog_shape_does_not_depend_on_pythons_hash_seed() -> None:
    """L6."""
    program = (
        "from tests.property.test_backlog import _shape\n"
        "from niyama.scheduling.backlog import Backlog\n"
        "backlog = Backlog()\n"
        "for n in range(50): backlog.put(f'r{n}', (n,), n / 7, n / 3)\n"
        "print(_shape(backlog._root))"
    )
    path = os.pathsep.join(sys.path)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert b"r49" in outputs[0]
    assert outputs[0] == outputs[1]


def test_backlog_of_ten_thousand_is_shallow() -> None:
    """Request ids as vLLM makes them, in order of arrival, give no degenerate tree."""
    backlog = Backlog()
    for number in range(10_000):
        backlog.put(f"chatcmpl-{number:x}-0", (float(number),), 1.0, 1e9)
    depth, level = 0, [backlog._root]
    while level:
        depth += 1
        level = [child for node in level if node for child in (node.left, node.right) if child]
    assert depth < 60
