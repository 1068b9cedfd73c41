from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyama.sim.sweep import Job, most_in_time

NUMBERS = st.one_of(st.integers(0, 12).map(float), st.floats(0, 12))
SIZES = st.one_of(st.integers(1, 4).map(float), st.floats(0.1, 5))


@st.composite
def a_job(draw: st.DrawFn) -> Job:
    """A job that could be done in its window if it were alone."""
    release_at, work_s = draw(NUMBERS), draw(SIZES)
    return Job(release_at, release_at + work_s + draw(NUMBERS), work_s)


JOBS = st.lists(a_job(), min_size=1, max_size=7)


def fits(jobs: tuple[Job, ...]) -> bool:
    """Whether one machine that may break off jobs ends all of them in time."""
    return all(
        sum(job.work_s for job in jobs if job.release_at >= one.release_at and job.due_at <= other.due_at)
        <= max(0.0, other.due_at - one.release_at) + 1e-9
        for one in jobs
        for other in jobs
    )


def most_whole_jobs(jobs: list[Job]) -> int:
    """The true optimum, by trying all sets."""
    sizes = range(len(jobs), 0, -1)
    return next((size for size in sizes if any(map(fits, combinations(jobs, size)))), 0)


def most_parts(jobs: list[Job]) -> float:
    """The linear program by the greedy rule of polymatroids: the smallest job first, as much as fits."""
    amounts: dict[int, float] = {}
    for place in sorted(range(len(jobs)), key=lambda place: jobs[place].work_s):
        room = jobs[place].work_s
        for release_at in {job.release_at for job in jobs}:
            for due_at in {job.due_at for job in jobs}:
                if release_at <= jobs[place].release_at and jobs[place].due_at <= due_at:
                    within = [
                        i for i in amounts if jobs[i].release_at >= release_at and jobs[i].due_at <= due_at
                    ]
                    room = min(room, due_at - release_at - sum(amounts[i] for i in within))
        amounts[place] = max(0.0, room)
    return sum(amount / jobs[place].work_s for place, amount in amounts.items())


@given(JOBS)
def test_parts_of_jobs_are_chosen_in_the_best_way(jobs: list[Job]) -> None:
    assert most_in_time(jobs) == pytest.approx(most_parts(jobs), abs=1e-6)


@settings(max_examples=60)
@given(JOBS)
def test_no_schedule_of_whole_jobs_ends_more_in_time(jobs: list[Job]) -> None:
    assert most_in_time(jobs) >= most_whole_jobs(jobs) - 1e-6


@given(JOBS)
def test_order_of_the_jobs_changes_nothing(jobs: list[Job]) -> None:
    assert most_in_time(jobs[::-1]) == pytest.approx(most_in_time(jobs), abs=1e-6)


@given(JOBS, a_job())
def test_one_more_job_never_lets_fewer_end_in_time(jobs: list[Job], more: Job) -> None:
    assert most_in_time(jobs) - 1e-6 <= most_in_time([*jobs, more]) <= most_in_time(jobs) + 1 + 1e-6


@given(JOBS)
def test_when_it_began_changes_nothing(jobs: list[Job]) -> None:
    later = [Job(1.7e9 + job.release_at, 1.7e9 + job.due_at, job.work_s) for job in jobs]
    assert most_in_time(later) == pytest.approx(most_in_time(jobs), abs=1e-4)


def test_no_jobs_are_all_in_time() -> None:
    assert most_in_time([]) == 0


def test_largest_job_gives_way() -> None:
    jobs = [Job(0.0, 10.0, 6.0), Job(1.0, 10.0, 3.0), Job(2.0, 10.0, 3.0), Job(11.0, 12.0, 1.0)]
    assert most_in_time(jobs) == pytest.approx(3 + 4 / 6)
