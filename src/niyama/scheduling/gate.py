"""Who would make steps short begins to read together with others.

While somebody reads along, no step may last longer than that TBT, and short steps are dear: what counts is
for how much of the time somebody reads, not how many do. So while nobody reads at a pace, the prefills that
would bring a reader stop before their last token and wait at the gate, as long as their TTFTs leave time.
When the first of them has to begin, all do; and who comes while somebody reads anyhow begins at once, since
that costs nothing.
"""

from __future__ import annotations

import heapq
import math
from typing import Final

from niyama.qos import Slo
from niyama.scheduling.ledger import Job
from niyama.scheduling.pacing import MIN_HEAP, PACE_CAP_S, STALE_SHARE, on_grid

GUARD_SHARE: Final = 0.25
"""Who waits at the gate begins when this share of its TTFT is left, for steps, stalls and other prefills."""


CROWDED_SHARE: Final = 0.75
"""Nobody waits while a step without prefill, and a stall, take more of the pace that is waited for. So many
more would decode meanwhile that it could not be kept; and where steps stall, readers need the slack that
shorter steps leave them."""


class Gate:
    """Who reads at which pace, and when each of those has to begin who wait to.

    Only requests with a TTFT and a TBT wait: without a TTFT nothing says for how long they may.
    """

    def __init__(self) -> None:
        self._readers: dict[str, float] = {}
        self._num_readers: dict[float, int] = {}
        self._begins_at: dict[str, float] = {}
        self._heaps: dict[float, list[tuple[float, str]]] = {}

    def wait(self, job: Job) -> None:
        """Count a prefill among those who wait; nothing changes for one that does. O(log n)."""
        request_id, ttft_s = job.request_id, job.request.slo.ttft_s
        pace_s = _pace_s(job.request.slo)
        if ttft_s is None or pace_s == math.inf:
            return
        begins_at = job.due_at - GUARD_SHARE * ttft_s
        if self._begins_at.get(request_id) == begins_at:
            return
        self._begins_at[request_id] = begins_at
        heap = self._heaps.setdefault(pace_s, [])
        heapq.heappush(heap, (begins_at, request_id))
        if len(heap) > STALE_SHARE * len(self._begins_at) + MIN_HEAP:
            self._heaps[pace_s] = [entry for entry in heap if self._begins_at.get(entry[1]) == entry[0]]
            heapq.heapify(self._heaps[pace_s])

    def discard(self, request_id: str) -> None:
        """Forget who waited; unknown ids pass. O(1)."""
        self._begins_at.pop(request_id, None)

    def begin(self, job: Job) -> None:
        """Count a request that decodes from now on among the readers, if it was promised a TBT. O(1)."""
        tbt_s = job.request.slo.tbt_s
        if tbt_s is not None and job.request_id not in self._readers:
            pace_s = on_grid(tbt_s)
            self._readers[job.request_id] = pace_s
            self._num_readers[pace_s] = self._num_readers.get(pace_s, 0) + 1

    def end(self, request_id: str) -> None:
        """Forget a reader; unknown ids pass. O(1)."""
        pace_s = self._readers.pop(request_id, None)
        if pace_s is not None:
            self._num_readers[pace_s] -= 1
            if not self._num_readers[pace_s]:
                del self._num_readers[pace_s]

    @property
    def pace_s(self) -> float:
        """The tightest pace at which somebody reads, seconds per token; infinite if nobody does."""
        return min(self._num_readers, default=math.inf)

    def shut_s(self, now_s: float, least_step_s: float) -> float:
        """Return for how long nobody has to begin who would make steps shorter than they are.

        Args:
            now_s: The instant.
            least_step_s: Time of a step without prefill, a stall included, seconds.

        Returns:
            Seconds; 0 if somebody has to now, or if nobody waits. O(paces), O(log n) per stale entry.
        """
        tightest_s, first_at = self.pace_s, math.inf
        for pace_s in [one for one in self._heaps if one < tightest_s]:
            heap = self._heaps[pace_s]
            while heap and self._begins_at.get(heap[0][1]) != heap[0][0]:
                heapq.heappop(heap)
            if not heap:
                del self._heaps[pace_s]
            elif least_step_s > CROWDED_SHARE * pace_s:
                return 0.0
            else:
                first_at = min(first_at, heap[0][0])
        return max(0.0, first_at - now_s) if first_at < math.inf else 0.0

    def holds(self, job: Job) -> bool:
        """Whether a prefill would make steps shorter than they are if it ended. O(paces)."""
        return _pace_s(job.request.slo) < self.pace_s


def _pace_s(slo: Slo) -> float:
    """Return the pace for whose sake a request may wait; infinite if it may not, or no step is as long."""
    if slo.ttft_s is None or slo.tbt_s is None or slo.tbt_s >= PACE_CAP_S:
        return math.inf
    return on_grid(slo.tbt_s)
