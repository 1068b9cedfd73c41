"""The most jobs that one machine can end in time, parts of jobs counted in part.

Jobs have a release, a due time and a size; the machine may break off any job and take it up again.
Ending the most jobs in time is hard to compute; if a part of a job counts as that part of
one, it is not, and gives no less. It is a linear program: amounts of work a_j between 0 and the
size w_j, so that for every release s and due time t the amounts of the jobs within [s, t] add up to at
most t - s; the most of sum a_j / w_j. (Exactly such amounts can be worked off in their windows.)
The amounts that fit form a polymatroid, so exchanges find the best ones: jobs come in order of
their due times; if one does not fit, it takes the place of the largest job in the smallest full
stretch of time that holds it, if that is larger than itself. This is Moore and Hodgson's rule (1968),
with releases, and with parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

FULL_SHARE = 1e-14
"""Time left that is none, as a share of the time from the first release to the last due time: instants are
sums of many durations, and such a sum is good to about a hundredth of it."""


class Job(NamedTuple):
    """Work for one machine: instants, and seconds of work > 0."""

    release_at: float
    due_at: float
    work_s: float


def most_in_time(jobs: Sequence[Job]) -> float:
    """Return the largest sum of shares of jobs that can be done within their windows.

    No less than the number of jobs that any schedule ends in time, but for rounding (`FULL_SHARE` per job).
    Cost: O(log n) for a job and for an exchange; each exchange ejects a job for good, or fills a stretch.
    """
    if not jobs:
        return 0.0
    began_at = min(job.release_at for job in jobs)
    in_order = sorted(Job(job.release_at - began_at, job.due_at - began_at, job.work_s) for job in jobs)
    load = _Load(in_order)
    for place in sorted(range(len(in_order)), key=lambda i: in_order[i].due_at):
        _add(load, in_order[place], place)
    return sum(amount_s / job.work_s for amount_s, job in zip(load.amounts_s, in_order, strict=True))


def _add(load: _Load, job: Job, place: int) -> None:
    """Take in the job that is due last of all so far."""
    left_s, due_at = job.work_s, job.due_at
    while True:
        room_s = due_at - load.latest_end(place)
        taken_s = min(room_s, left_s)
        if taken_s > 0:
            load.change(place, taken_s)
            left_s -= taken_s
        if left_s <= load.full_s:
            return
        start = load.last_full(place, due_at - load.full_s)
        if start < 0:
            return
        victim = load.largest(start)
        if load.works_s[victim] <= job.work_s:
            return
        swapped_s = min(load.amounts_s[victim], left_s)
        load.change(victim, -swapped_s)
        load.change(place, swapped_s)
        left_s -= swapped_s
        over_s = load.latest_end(place) - due_at
        # A shorter stretch, without the victim, may have been full before all was swapped. (No swap is undone
        # whole, so that this ends: only rounding could ask for it.)
        if 0 < over_s < swapped_s:
            load.change(place, -over_s)
            load.change(victim, over_s)
            left_s += over_s


class _Load:
    """The amounts that were taken in, in order of releases: a tree of sums.

    The stretch that begins with the release of a place ends, worked off without a pause, at that
    instant plus the amounts of the place and of all behind it.

    Attributes:
        full_s: Time left that is none.
        works_s: Sizes by place, and then a 0 for nobody.
        amounts_s: Amounts taken in, by place.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        num_jobs = len(jobs)
        size = 1
        while size < num_jobs:
            size *= 2
        self._size = size
        self.full_s = FULL_SHARE * max(job.due_at for job in jobs)
        self._nobody = num_jobs
        self._releases_at = [job.release_at for job in jobs]
        self.works_s = [*[job.work_s for job in jobs], 0.0]
        self.amounts_s = [0.0] * num_jobs
        # Of every node: the sum of its amounts; the latest end of a stretch that begins in it, without
        # what is behind the node; the largest job of which any amount is in.
        self._sums_s = [0.0] * (2 * size)
        self._ends_at = [-math.inf] * (2 * size)
        self._largest = [num_jobs] * (2 * size)
        self._ends_at[size : size + num_jobs] = self._releases_at
        for node in range(size - 1, 0, -1):
            self._ends_at[node] = max(self._ends_at[2 * node], self._ends_at[2 * node + 1])

    def change(self, place: int, amount_s: float) -> None:
        """Take in more of a job, or less."""
        sums_s, ends_at, largest, works_s = self._sums_s, self._ends_at, self._largest, self.works_s
        now_s = self.amounts_s[place] + amount_s
        if now_s <= self.full_s:
            now_s = 0.0
        self.amounts_s[place] = now_s
        node = self._size + place
        sums_s[node] = now_s
        ends_at[node] = self._releases_at[place] + now_s
        largest[node] = place if now_s > 0.0 else self._nobody
        while node > 1:
            node //= 2
            left, right = 2 * node, 2 * node + 1
            sum_s = sums_s[right]
            sums_s[node] = sums_s[left] + sum_s
            through_at = ends_at[left] + sum_s
            ends_at[node] = through_at if through_at > ends_at[right] else ends_at[right]
            one, other = largest[left], largest[right]
            largest[node] = one if works_s[one] >= works_s[other] else other

    def latest_end(self, place: int) -> float:
        """Return the latest end of the stretches that begin with a place or before it."""
        sums_s, ends_at = self._sums_s, self._ends_at
        node = self._size + place
        end_at, within_s, behind_s = ends_at[node], sums_s[node], 0.0
        while node > 1:
            if node % 2:
                before_at = ends_at[node - 1] + within_s
                end_at = before_at if before_at > end_at else end_at
                within_s += sums_s[node - 1]
            else:
                behind_s += sums_s[node + 1]
            node //= 2
        return end_at + behind_s

    def last_full(self, place: int, at: float) -> int:
        """Return the last place up to `place` whose stretch ends at an instant or later; -1 if none does."""
        sums_s, ends_at = self._sums_s, self._ends_at
        node, behind_s = self._size + place, 0.0
        while node > 1:
            if node % 2 == 0:
                behind_s += sums_s[node + 1]
            node //= 2
        node = self._size + place
        while ends_at[node] + behind_s < at:
            behind_s += sums_s[node]
            while node % 2 == 0:
                node //= 2
            if node <= 1:
                return -1
            node -= 1
        return self._last_full_in(node, at, behind_s)

    def _last_full_in(self, node: int, at: float, behind_s: float) -> int:
        while node < self._size:
            node = 2 * node + 1
            if self._ends_at[node] + behind_s < at:
                behind_s += self._sums_s[node]
                node -= 1
        return node - self._size

    def largest(self, place: int) -> int:
        """Return whose job is the largest that is in, of a place and all behind it; `nobody` if none is."""
        largest, works_s = self._largest, self.works_s
        node = self._size + place
        found = largest[node]
        while node > 1:
            if node % 2 == 0 and works_s[largest[node + 1]] > works_s[found]:
                found = largest[node + 1]
            node //= 2
        return found
