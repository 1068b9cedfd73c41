"""Waiting requests that vLLM would not start, whatever room there is.

vLLM passes a waiting request over if its adapter has no slot, its grammar compiles, its KV or its images
are on their way; stock vLLM loses nothing by that, for it goes on to the next. A plan that gives such a
request its tokens gives them to nobody. What vLLM does is known beforehand for adapters, as they fill
their slots (vllm/v1/core/sched/scheduler.py, `schedule`); the rest is seen when it happens, and tried
again after a pause that doubles.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from niyama.scheduling.policy import Plan

MAX_PAUSE_STEPS = 32
"""Longest pause before a request is tried again, in steps."""

MAX_SPACING_STEPS = 8
"""With many such requests, at most one in so many steps is tried again while tries are in vain."""

MAX_TRIES = 32
"""While tries succeed, twice as many as before are made with a plan, up to so many."""


class Blocked:
    """Who cannot start now; a container of request ids.

    Asked several times for one plan it gives one answer. O(1), and O(running) per step with adapters.

    Attributes:
        resting: Sessions that wait for their client's next input.
    """

    def __init__(self, scheduler: Any, requests: Mapping[str, Any]) -> None:
        """Take vLLM's scheduler and all of its requests by id, a mapping that is kept up to date."""
        self._scheduler = scheduler
        self._requests = requests
        self._max_adapters: int | None = None
        self._adapters: set[int] = set()
        self._step = 0
        self._pauses: dict[str, tuple[int, int]] = {}  # the step of the next try, and the pause before it
        self._tried: set[str] = set()
        self._num_tries = 1
        self._next_try = 0
        self.resting: set[str] = set()

    def __contains__(self, request_id: object) -> bool:
        """Whether the engine cannot start a waiting request now."""
        if not isinstance(request_id, str):
            return False
        if self._max_adapters is not None and self._lacks_slot(request_id, self._adapters):
            return True
        if request_id in self.resting:
            return True
        if request_id not in self._pauses:
            return False
        is_due = self._step >= max(self._pauses[request_id][0], self._next_try)
        if is_due and len(self._tried) < self._num_tries:
            self._tried.add(request_id)
        return request_id not in self._tried

    def begin_step(self) -> None:
        """A plan is about to be made."""
        self._step += 1
        self._tried.clear()
        lora_config = self._scheduler.lora_config
        if lora_config is not None:
            self._max_adapters = int(lora_config.max_loras)
            self._adapters = {adapter for r in self._scheduler.running if (adapter := _adapter(r))}

    def admissible(self, order: Iterable[str], started: Container[str]) -> list[str]:
        """Return those of an order that may start together: no more adapters than slots.

        vLLM counts the adapters of those that run in this step only, and dies of one too many in the next
        if some that it does not count were held (`assert` in `schedule`).

        Args:
            order: Who is to be offered, most urgent first.
            started: Requests that have begun.
        """
        if self._max_adapters is None:
            return list(order)
        adapters, admitted = set(self._adapters), []
        for request_id in order:
            if request_id not in started:
                if self._lacks_slot(request_id, adapters):
                    continue
                adapters.add(_adapter(self._requests[request_id]))
                adapters.discard(0)
            admitted.append(request_id)
        return admitted

    def learn(
        self,
        plan: Plan,
        ran: Container[str],
        put_back: Container[str],
        started: Container[str],
        has_room: bool,
    ) -> None:
        """Note who was to start and did not.

        Args:
            plan: What was to run.
            ran: Who runs.
            put_back: Waiting requests that vLLM took and put back.
            started: Requests that had begun before the step.
            has_room: Whether vLLM had tokens left at the end.
        """
        before = len(self._pauses)
        for request_id, _ in plan.chunks:
            if request_id in ran:
                self._pauses.pop(request_id, None)
            elif request_id in put_back:
                self._pause(request_id)
            elif request_id in self._requests and request_id not in started:
                if has_room:
                    self._pause(request_id)
                break  # vLLM looked at nobody behind it
        tried = [request_id for request_id, _ in plan.chunks if request_id in self._tried]
        if tried:
            self._space(len(tried), sum(request_id in ran for request_id in tried), before)

    def forget(self, request_id: str) -> None:
        """A request is gone."""
        self._pauses.pop(request_id, None)

    def _space(self, num_tried: int, num_started: int, num_paused: int) -> None:
        """Decide how many are tried next, and when: more while they start, fewer while they do not."""
        if num_started == num_tried:
            self._num_tries = min(MAX_TRIES, 2 * self._num_tries)
        elif num_started:
            self._num_tries = max(1, self._num_tries // 2)
        else:
            self._num_tries = 1
            self._next_try = self._step + min(MAX_SPACING_STEPS, num_paused)

    def _pause(self, request_id: str) -> None:
        _, pause = self._pauses.get(request_id, (0, 0))
        pause = min(MAX_PAUSE_STEPS, max(1, 2 * pause))
        self._pauses[request_id] = (self._step + 1 + pause, pause)

    def _lacks_slot(self, request_id: str, adapters: set[int]) -> bool:
        request = self._requests.get(request_id)
        adapter = 0 if request is None else _adapter(request)
        return bool(adapter) and adapter not in adapters and len(adapters) == self._max_adapters


def _adapter(request: Any) -> int:
    """Return the number of a request's adapter; 0 without one."""
    lora_request = request.lora_request
    return 0 if lora_request is None else int(lora_request.lora_int_id)
