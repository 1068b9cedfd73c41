"""Makes vLLM's own `schedule()` do what the plan says, by four levers and no copied code.

The per-step token budget, the order of `running`, holding a prefill or a decode, and the order of
the waiting queues (facts: vllm/v1/core/sched/scheduler.py, `schedule`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from niyama.engines.vllm import compat
from niyama.engines.vllm.blocked import Blocked
from niyama.engines.vllm.queue import PlannedQueue
from niyama.scheduling.policy import Plan, Request

PRESSURE_TOKENS_PER_SEQ = 32
"""With fewer free KV tokens than this per running request, the order of `running` is put so that
whom vLLM preempts, its last, is who should go first."""


class Levers:
    """The levers of one vLLM scheduler."""

    def __init__(self, scheduler: Any, blocked: Blocked) -> None:
        self._scheduler = scheduler
        self._blocked = blocked
        self._full_budget = int(scheduler.max_num_scheduled_tokens)
        self.queues: list[PlannedQueue] = []
        for name in compat.queue_names(scheduler):
            queue = PlannedQueue()
            setattr(scheduler, name, queue)
            self.queues.append(queue)

    @property
    def full_budget(self) -> int:
        """The token budget of vLLM itself."""
        return self._full_budget

    def apply(
        self,
        plan: Plan,
        prefilling: Mapping[str, Any],
        requests: Mapping[str, Any],
        views: Mapping[str, Request],
    ) -> str | None:
        """Set the levers for the next `schedule()`.

        vLLM serves what is running before what waits. So a started prefill that is to get only
        the rest behind a request that waits would take it all; it is held for this step.

        Args:
            plan: What should run.
            prefilling: vLLM's requests whose prefill has begun, by id.
            requests: All of vLLM's requests, by id.
            views: The policy's view of every request, by id; for the order under KV pressure.

        Returns:
            The id of the prefill that is held for that reason, if any.
        """
        scheduler = self._scheduler
        order = [chunk.request_id for chunk in plan.chunks]
        budget, held = plan.budget, plan.held
        greedy = self._would_take_all(plan, prefilling)
        if greedy is not None:
            budget -= plan.chunks[-1].num_tokens
            held = [*held, order.pop()]
        # No plan may end the engine: vLLM dies of a budget that decodes or chunks exceed.
        usable = min(budget, self._full_budget)
        scheduler.max_num_scheduled_tokens = usable if usable > 0 else self._full_budget
        for request in self._passed_over(held, plan.stalled, prefilling, requests):
            # With pipeline parallelism vLLM itself may make a decode wait for longer.
            wait_until = scheduler.current_step + 2
            request.next_decode_eligible_step = max(request.next_decode_eligible_step, wait_until)
        self._order_running(order, held, prefilling, views)
        order = self._blocked.admissible([*order, *plan.spares], prefilling)
        for queue in self.queues:
            queue.set_plan(order)
        return greedy

    @staticmethod
    def _passed_over(
        held: Iterable[str],
        stalled: Iterable[str],
        prefilling: Mapping[str, Any],
        requests: Mapping[str, Any],
    ) -> Iterator[Any]:
        """Yield prefills and decodes that vLLM is to pass over in this step; they keep their KV."""
        yield from (prefilling[i] for i in held if i in prefilling)
        yield from (requests[i] for i in stalled if i in requests)

    @staticmethod
    def _would_take_all(plan: Plan, prefilling: Mapping[str, Any]) -> str | None:
        """Return the last chunk's request if it runs, gets a part, and a waiting one goes before."""
        if len(plan.chunks) < 2:
            return None
        last = plan.chunks[-1]
        request = prefilling.get(last.request_id)
        if request is None or all(chunk.request_id in prefilling for chunk in plan.chunks):
            return None
        left = int(request.num_tokens) - int(request.num_computed_tokens)
        return last.request_id if last.num_tokens < left else None

    def begin_decode(self, request: Any, views: Mapping[str, Request]) -> None:
        """Put a request whose prefill ends among the decodes: before those with a longer TBT or none.

        A step's tokens leave the engine in the order of `running`, and the API server hands them on
        one by one: who reads along at the tightest pace must not wait for all others. O(running), once
        per request.
        """
        running: list[Any] = self._scheduler.running
        tbt_s = _tbt_s(views.get(request.request_id))
        if tbt_s == math.inf or request not in running:
            return  # nobody to pass, or vLLM has taken its KV since
        # One by one, for prefills that wait in between are in another order.
        slower = (n for n, other in enumerate(running) if _tbt_s(views.get(other.request_id)) > tbt_s)
        now_at = running.index(request)
        running.insert(min(next(slower, now_at), now_at), running.pop(now_at))

    def release(self) -> None:
        """Let vLLM schedule in its own order with its own budget."""
        self._scheduler.max_num_scheduled_tokens = self._full_budget
        for queue in self.queues:
            queue.set_plan(None)

    def put_back(self) -> set[str]:
        """Return the ids of those that the last `schedule()` took from the queues and put back."""
        return {request_id for queue in self.queues for request_id in queue.put_back}

    def popped(self) -> dict[str, Any]:
        """Return the requests that the last `schedule()` took from the queues, by id.

        Those that it could not run after all it puts back, before 0.32 into the other queue.
        """
        popped = {i: request for queue in self.queues for i, request in queue.popped.items()}
        return {i: r for i, r in popped.items() if not any(r in queue for queue in self.queues)}

    def _order_running(
        self,
        order: Sequence[str],
        held: Sequence[str],
        prefilling: Mapping[str, Any],
        views: Mapping[str, Request],
    ) -> None:
        """Put decodes first, then prefills by urgency, then those held."""
        running: list[Any] = self._scheduler.running
        last = [i for i in (*order, *held) if i in prefilling]
        rank = {request_id: place for place, request_id in enumerate(last, start=1)}
        if compat.num_free_kv_tokens(self._scheduler) < PRESSURE_TOKENS_PER_SEQ * len(running):
            running.sort(key=lambda r: (rank.get(r.request_id, 0), _expendable(views.get(r.request_id))))
        elif last and [r.request_id for r in running[-len(last) :]] != last:
            running.sort(key=lambda r: rank.get(r.request_id, 0))


def _tbt_s(request: Request | None) -> float:
    """Return the promised time between tokens, seconds; infinite if none was."""
    tbt_s = None if request is None else request.slo.tbt_s
    return math.inf if tbt_s is None else tbt_s


def _expendable(request: Request | None) -> tuple[int, int, bool, float]:
    """Order decodes by who may lose its KV: less important, not read along, and younger ones later."""
    if request is None:
        return (0, 0, False, 0.0)
    return (int(request.importance), request.priority, not request.slo.is_interactive, request.arrived_at)
