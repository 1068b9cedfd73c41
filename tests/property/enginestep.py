"""One `schedule()` of the engine for tests: what of a plan it realises, as vLLM does."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from niyama.scheduling.ledger import Phase
from niyama.scheduling.policy import BatchShape, Plan, Prefill

if TYPE_CHECKING:
    from tests.property.hosts import Host, Live

BLOCK = 16


class Event(NamedTuple):
    """What happened to a request, and when."""

    at: float
    request_id: str
    what: str


class EngineStep:
    """One `schedule()` of the engine."""

    def __init__(self, host: Host, plan: Plan) -> None:
        self.host = host
        self.plan = plan
        self.tokens = plan.budget
        self.prefills: dict[str, Prefill] = {}
        self.decodes: list[str] = []
        self.preempted: list[str] = []
        self.done: set[str] = set()
        self.shape = BatchShape(0, 0)

    def realise(self) -> None:
        host, plan = self.host, self.plan
        rank = {c.request_id: n for n, c in enumerate(plan.chunks, 1)}
        for i in plan.held:
            rank[i] = len(rank) + len(plan.chunks) + 1
        host._running.sort(key=lambda x: rank.get(x.request.request_id, 0))
        chunks, passed_over = dict(plan.chunks), host.stalls.union(plan.stalled)
        for x in list(host._running):
            i = x.request.request_id
            if i in self.preempted:
                continue
            if x.phase is Phase.DECODING:
                if i not in passed_over and x.launched < x.request.max_tokens and self._allocate(x, 1):
                    self.decodes.append(i)
            elif i in chunks and self._allocate(x, chunks[i]):
                self._run(x, chunks[i])
        waiting = [(i, n) for i, n in plan.chunks if host.live[i].phase is Phase.WAITING]
        waiting += [(i, 0) for i in plan.spares if host.live[i].phase is Phase.WAITING]
        self.tokens -= len(self.decodes) * (1 + host.num_spec)
        for i, planned in waiting:
            if self.preempted or not self._start(host.live[i], planned):
                break
        decodes = [host.live[i] for i in self.decodes]
        num_tokens = len(decodes) * (1 + host.num_spec)
        self.shape = self.shape._replace(
            num_decode_tokens=num_tokens, decode_context=sum(x.computed for x in decodes)
        )

    def _start(self, x: Live, planned: int) -> bool:
        host = self.host
        x.computed = x.num_cached
        num_tokens = min(x.num_tokens - x.computed, planned or self.tokens, self.tokens)
        x.computed = x.num_cached if num_tokens > 0 else 0
        if num_tokens <= 0 or len(host._running) >= host.max_seqs or not self._allocate(x, num_tokens):
            x.computed = 0
            return False
        host._running.append(x)
        host.seen["spare"] += planned == 0
        if x.scheduled_at is None:
            x.scheduled_at = max(host.now_s, host._free_at)
        self._run(x, num_tokens)
        return True

    def _run(self, x: Live, num_tokens: int) -> None:
        host = self.host
        i = x.request.request_id
        at = max(host.now_s, host._free_at)
        host.events.append(Event(at, i, f"prefill {num_tokens}"))
        x.is_held = False
        self.shape = self.shape.with_chunk(num_tokens, x.computed)
        x.computed += num_tokens
        self.tokens -= num_tokens
        self.prefills[i] = Prefill(i, num_tokens, x.computed, x.num_tokens - x.computed)
        if x.computed == x.num_tokens:
            x.phase = Phase.DECODING
            self.done.add(i)
        else:
            x.phase = Phase.PREFILLING

    def _allocate(self, x: Live, num_tokens: int) -> bool:
        """Give it blocks for so many more tokens; running ones may take them from the last."""
        host = self.host
        needed = -(-(x.computed + num_tokens) // BLOCK)
        while needed - x.blocks > host.free_blocks:
            if x.phase is Phase.WAITING:
                return False
            victim = host._running.pop()
            self._preempt(victim)
            if victim is x:
                return False
        x.blocks = max(x.blocks, needed)
        return True

    def _preempt(self, x: Live) -> None:
        i = x.request.request_id
        self.preempted.append(i)
        self.host.events.append(Event(max(self.host.now_s, self.host._free_at), i, "preempt"))
        x.phase, x.computed, x.blocks, x.num_cached, x.is_held = Phase.WAITING, 0, 0, 0, False
