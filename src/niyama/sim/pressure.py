"""A step when memory is short, as vLLM does it (vllm/v1/core/sched/scheduler.py, `schedule`).

Running requests take their blocks in order: decodes, the least expendable first, then started
prefills as planned, then those that are held. When there is none left, the last of them gives back
its KV and is computed anew. A waiting request starts only if its whole prompt fits and nobody was
preempted in the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from niyama.scheduling.policy import BatchShape, Launch, Plan, Prefill
from niyama.sim.live import Live

if TYPE_CHECKING:
    from niyama.sim.replica import Replica


class Squeeze:
    """Realises what of a plan finds memory. O(r log r) for r running requests."""

    def __init__(self, replica: Replica, plan: Plan, number: int) -> None:
        self._replica = replica
        self._plan = plan
        self._number = number
        self._chunks = dict(plan.chunks)
        self._prefills: list[Prefill] = []
        self._preempted: list[str] = []
        self._shape = BatchShape(0, 0)

    def launch(self) -> Launch:
        """Run the step and return what ran."""
        replica, plan = self._replica, self._plan
        for request_id in plan.stalled:
            if request_id not in replica.stalled:
                replica.stall(replica.live[request_id], self._number)
        self._serve_running()
        for request_id, num_tokens in plan.chunks:
            live = replica.live[request_id]
            if self._preempted or live.is_running:
                continue
            if replica.kv.num_blocks_for(live.num_to_compute) > replica.kv.free:
                break
            self._prefill(live, num_tokens)
        stalled = [request_id for request_id in plan.stalled if request_id in replica.stalled]
        return Launch(replica.now_s, self._prefills, self._shape, stalled, self._preempted)

    def _serve_running(self) -> None:
        replica = self._replica
        queue = self._queue()
        place = 0
        while place < len(queue):
            live = queue[place]
            num_blocks = self._num_blocks_needed(live)
            while num_blocks > replica.kv.free and place < len(queue):
                victim = queue.pop()
                replica.preempt(victim, self._number)
                self._preempted.append(victim.request_id)
            if place < len(queue):
                self._serve(live, num_blocks)
            place += 1

    def _queue(self) -> list[Live]:
        """Return the running requests; whoever is to lose its KV first comes last."""
        replica, plan = self._replica, self._plan
        decoding = sorted([*replica.decoding(), *replica.stalled.values()], key=_expendable)
        prefills = [replica.live[i] for i in (*self._chunks, *plan.held)]
        return [*decoding, *[live for live in prefills if live.is_running]]

    def _num_blocks_needed(self, live: Live) -> int:
        kv = self._replica.kv
        if live.first_step >= 0:
            return int(live.num_kv_tokens(self._number) % kv.block_tokens == 0)
        if live.request_id in self._replica.stalled:
            num_tokens = int(live.request_id not in self._plan.stalled)
        else:
            num_tokens = self._chunks.get(live.request_id, 0)
        return kv.num_blocks_for(live.computed + num_tokens) - live.num_blocks

    def _serve(self, live: Live, num_blocks: int) -> None:
        """Run a request whose blocks are free."""
        replica, request_id = self._replica, live.request_id
        if live.first_step >= 0:
            replica.kv.free -= num_blocks
            self._decode(live.num_kv_tokens(self._number))
        elif request_id in replica.stalled:
            if request_id not in self._plan.stalled:
                self._decode(live.computed)
                replica.resume(live, self._number)
        elif request_id in self._chunks:
            self._prefill(live, self._chunks[request_id])

    def _decode(self, context: int) -> None:
        shape = self._shape
        self._shape = shape._replace(
            num_decode_tokens=shape.num_decode_tokens + 1, decode_context=shape.decode_context + context
        )

    def _prefill(self, live: Live, num_tokens: int) -> None:
        done = self._replica.compute(live, num_tokens)
        self._prefills.append(done)
        self._shape = self._shape.with_chunk(num_tokens, done.computed - num_tokens)


def _expendable(live: Live) -> tuple[int, int, bool, float, str]:
    """Order decodes by who may lose its KV: less important, not read along, and younger ones later."""
    request = live.request
    is_batch = not request.slo.is_interactive
    return (int(request.importance), request.priority, is_batch, request.arrived_at, request.request_id)
