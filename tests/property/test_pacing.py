"""The pacer against a dictionary that is advanced token by token."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from niyama.scheduling.pacing import (
    GRID_PER_OCTAVE,
    MIN_HEAP,
    PACE_CAP_S,
    STALE_SHARE,
    Pacer,
    on_grid,
)

# Powers of two, so that every sum is exact and ties are ties in both.
PACES = st.sampled_from([2.0**-n for n in range(6)])
TIMES = st.integers(0, 256).map(lambda n: n / 32)
IDS = st.integers(0, 6).map(str)
OPERATIONS = st.one_of(
    st.tuples(st.just("join"), IDS, PACES, TIMES),
    st.tuples(st.just("leave"), IDS),
    st.tuples(st.just("shift"), IDS, st.integers(-2, 3)),
    st.tuples(st.just("launch"), TIMES),
    st.tuples(st.just("look")),
)


class Naive:
    """The due time of every member's next token."""

    def __init__(self) -> None:
        self.members: dict[str, list[float]] = {}

    def launch(self) -> None:
        for member in self.members.values():
            member[1] += member[0]

    def take_late(self, ended_at: float) -> set[tuple[str, float, float]]:
        late = {(i, pace_s, due_at) for i, (pace_s, due_at) in self.members.items() if due_at < ended_at}
        for request_id, _, _ in late:
            del self.members[request_id]
        return late


@given(operations=st.lists(OPERATIONS, max_size=80))
def test_pacer_any_history_agrees_with_counting_token_by_token(
    operations: list[tuple[str, str, float, float]],
) -> None:
    pacer, naive, launch = Pacer(), Naive(), 0
    for what, *arguments in operations:
        match what, arguments:
            case "join", [str(i), float(pace_s), float(due_at)]:
                pacer.join(i, pace_s, due_at, launch)
                naive.members[i] = [pace_s, due_at]
            case "leave", [str(i)]:
                pacer.leave(i)
                naive.members.pop(i, None)
            case "shift", [str(i), int(num_tokens)]:
                pacer.shift(i, num_tokens)
                if i in naive.members:
                    naive.members[i][1] += num_tokens * naive.members[i][0]
            case "launch", [float(ended_at)]:
                taken = pacer.take_late(launch, ended_at)
                assert set(taken) == naive.take_late(ended_at)
                assert len(taken) == len(set(taken))
                launch += 1
                naive.launch()
            case _:
                pass
        dues = {i: due_at for i, (_, due_at) in naive.members.items()}
        assert pacer.tightest(launch) == min(dues.values(), default=math.inf)
        assert dict(pacer.all_due(launch)) == dues
        assert {i: pacer.due_at(i, launch) for i in dues} == dues
        assert len(pacer) == len(dues)


@given(pace_s=st.floats(1e-6, 1e6))
def test_on_grid_never_slower_and_at_most_one_place_faster(pace_s: float) -> None:
    gridded = on_grid(pace_s)
    assert gridded <= min(pace_s, PACE_CAP_S)
    assert gridded * 2 ** (1 / GRID_PER_OCTAVE) >= min(pace_s, PACE_CAP_S) * (1 - 1e-9)


@given(pace_s=st.floats(1e-6, 1e6))
def test_on_grid_of_grid_pace_is_itself_or_its_neighbour(pace_s: float) -> None:
    """Rounding in the logarithm may move a pace by one place, never more."""
    once = on_grid(pace_s)
    assert once / on_grid(once) < 2 ** (1.01 / GRID_PER_OCTAVE)


@given(num_joins=st.integers(500, 900), num_live=st.integers(1, 8))
def test_pacer_memory_follows_the_members_not_the_history(num_joins: int, num_live: int) -> None:
    pacer = Pacer()
    for number in range(num_joins):
        pacer.join(str(number), 0.5, float(number), number)
        pacer.leave(str(number - num_live))
        pacer.tightest(number)
    assert len(pacer) == num_live
    assert sum(map(len, pacer._heaps.values())) <= STALE_SHARE * num_live + MIN_HEAP + 1
