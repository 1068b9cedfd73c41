from __future__ import annotations

import pytest

from niyama.scheduling.backlog import Backlog, Item
from niyama.scheduling.relegation import RESTORE_HEADROOM, RESTORE_TRIES, Relegated, find_victim
from niyama.scheduling.shares import NUM_STANDINGS


def backlog(*entries: tuple[str, float, float, int]) -> Backlog:
    """Return a backlog in order of deadline: (id, work, due, importance) each."""
    made = Backlog()
    for request_id, work_s, due_at, importance in entries:
        made.put(request_id, (due_at, 0.0), work_s, due_at, (NUM_STANDINGS * importance, 0))
    return made


@pytest.mark.parametrize(
    ("entries", "victim"),
    [
        ((("a", 1, 1, 0), ("b", 1, 2, 0)), None),
        ((("a", 1, 1, 0), ("b", 1, 1.5, 0)), "b"),  # equals: the larger id
        ((("big", 3, 3, 1), ("small", 1, 3.5, 1)), "big"),
        ((("small", 1, 1, 2), ("big", 3, 3.5, 1)), "small"),  # importance before size
        ((("a", 1, 1, 0), ("b", 1, 1.5, 0), ("later", 1, 9, 2)), "b"),  # nobody behind is asked
        ((("small", 0.5, 1, 2), ("lost", 9, 3, 0)), "lost"),  # late even alone
    ],
)
def test_find_victim_least_important_then_largest_until_the_first_late(
    entries: tuple[tuple[str, float, float, int], ...], victim: str | None
) -> None:
    made = backlog(*entries)
    late = made.first_late(0.0)
    item = None if late is None else find_victim(made, late, 0.0)
    assert (item.request_id if item else None) == victim


def test_find_victim_priority_breaks_ties_of_importance() -> None:
    made = Backlog()
    made.put("later", (1.0,), 1.0, 1.0, (1, 5))
    made.put("sooner", (2.0,), 1.5, 2.0, (1, -5))
    late = made.first_late(0.0)
    assert late is not None
    assert find_victim(made, late, 0.0).request_id == "later"


def item(request_id: str, work_s: float, due_at: float, importance: int = 1) -> Item:
    return Item(request_id, (due_at, 0.0), work_s, due_at, (NUM_STANDINGS * importance, 0))


def test_take_fitting_returns_the_important_first() -> None:
    relegated = Relegated()
    relegated.add(item("low", 1.0, 9.0, 2))
    relegated.add(item("high", 1.0, 9.0, 0))
    assert [i.request_id for i in relegated.take_fitting(Backlog(), 0.0)] == ["high"]
    assert [i.request_id for i in relegated.take_fitting(Backlog(), 0.0)] == ["low"]
    assert relegated.take_fitting(Backlog(), 0.0) == []


def test_take_fitting_asks_for_headroom() -> None:
    relegated = Relegated()
    relegated.add(item("a", 1.0, 2.0))
    tight = backlog(("other", 2.0 - RESTORE_HEADROOM + 0.01, 1.5, 0))
    assert relegated.take_fitting(tight, 0.0) == []
    roomy = backlog(("other", 2.0 - RESTORE_HEADROOM - 0.01, 1.5, 0))
    assert [i.request_id for i in relegated.take_fitting(roomy, 0.0)] == ["a"]


def test_take_fitting_does_not_make_others_late() -> None:
    relegated = Relegated()
    relegated.add(item("a", 1.0, 2.0))
    assert relegated.take_fitting(backlog(("behind", 1.0, 2.05, 0)), 0.0) == []
    assert len(relegated) == 1


def test_take_fitting_forgets_who_is_late() -> None:
    relegated = Relegated()
    relegated.add(item("a", 1.0, 2.0))
    assert relegated.take_fitting(Backlog(), 2.5) == []
    assert len(relegated) == 0


def test_take_fitting_who_seemed_to_need_too_long_comes_back_once_it_does_not() -> None:
    """Its work was measured too high, or it got what others left."""
    relegated = Relegated()
    relegated.add(item("a", 1.0, 2.0))
    assert relegated.take_fitting(Backlog(), 1.5) == []
    relegated.update(item("a", 0.25, 2.0))
    assert [i.request_id for i in relegated.take_fitting(Backlog(), 1.6)] == ["a"]


def test_take_fitting_progress_since_counts() -> None:
    """A request that was served from what others left needs less now than when it was set aside."""
    relegated = Relegated()
    relegated.add(item("a", 5.0, 6.0))
    relegated.update(item("a", 1.0, 6.0))
    assert [i.request_id for i in relegated.take_fitting(Backlog(), 3.0)] == ["a"]


def test_take_fitting_skips_who_departed_and_who_came_again() -> None:
    relegated = Relegated()
    for request_id in ("a", "b"):
        relegated.add(item(request_id, 1.0, 9.0))
    relegated.discard("a")
    relegated.discard("b")
    relegated.add(item("b", 2.0, 9.0))
    taken = [relegated.take_fitting(Backlog(), 0.0) for _ in range(3)]
    assert [[i.work_s for i in items] for items in taken] == [[2.0], [], []]


def test_take_fitting_everybody_has_a_turn() -> None:
    relegated = Relegated()
    for number in range(3 * RESTORE_TRIES):
        relegated.add(item(f"big{number}", 5.0, 9.0))
    relegated.add(item("small", 1.0, 9.0))
    full = backlog(("other", 7.0, 9.0, 0))
    taken = [relegated.take_fitting(full, 0.0) for _ in range(4)]
    assert [i.request_id for items in taken for i in items] == ["small"]
    assert len(relegated) == 3 * RESTORE_TRIES


def test_who_comes_and_goes_leaves_nothing_behind() -> None:
    relegated = Relegated()
    for number in range(5):
        relegated.add(item(f"stays{number}", 1.0, 9.0, 0))
    for number in range(5000):
        relegated.add(item(f"goes{number}", 1.0, 9.0, 1))
        relegated.discard(f"goes{number}")
    assert sum(map(len, relegated._queues.values())) < 100
    assert len(relegated) == 5


def test_those_behind_a_crowd_that_does_not_fit_get_their_try() -> None:
    relegated = Relegated()
    for number in range(2 * RESTORE_TRIES):
        relegated.add(item(f"large{number}", 50.0, 100.0, 0))
    relegated.add(item("small", 1.0, 9.0, 1))
    busy = backlog(("runs", 60.0, 100.0, 0), ("and", 30.0, 101.0, 0))
    assert [i.request_id for i in relegated.take_fitting(busy, 0.0)] == ["small"]
