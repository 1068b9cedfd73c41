"""The published policy with its artifact's rules and parameters, for comparison.

Each step (paper, the sections on the mechanisms; artifact: `sarathi/core/scheduler/
deadline_scheduler.py` and `sarathi/core/datatypes/sequence.py` of its branch of sarathi-serve):
  1. Prefills are served by P = arrival + deadline + alpha * remaining prefill, with a static alpha;
     a TTLT becomes a deadline for the prefill by taking a constant output length off it.
  2. A request whose turn comes, that has not started, and that alone would miss its deadline at
     the measured prefill rate is relegated: once, for ever, behind all others.
  3. The step's size is the largest of a few whose predicted time, times 1.2, fits the slack
     of the tightest decode; the smallest if none does. Every decode runs in every step.
Importance, cached work, measured lengths and a restoration have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from niyama.compiled import mypyc_attr
from niyama.scheduling.backlog import Backlog
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.chunking import fill
from niyama.scheduling.deadlines import BEST_EFFORT_S, Anchor
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import BatchShape, LatencyModel, Plan, Request, StepOutcome

STEP_SIZES = (128, *range(256, 2049, 256), 2552)
"""Total tokens of a step to choose from."""

STEP_SIZES_LOW_MEMORY = (128, 256, 384, 512)
LOW_MEMORY_SHARE: Final = 32
LOW_MEMORY_TOKENS: Final = 1000
"""Memory is low when one in LOW_MEMORY_SHARE of the free KV tokens is fewer than this."""

TIME_FACTOR: Final = 1.2
"""Predicted times are multiplied by this before they are compared with the slack."""

PREFILL_RATE: Final = 8500.0
PREFILL_RATE_DECAY: Final = 0.995
"""Start, tokens/s, and weight of the old value of the moving average of the prefill rate."""

OUTPUT_TOKENS: Final = 15
OUTPUT_TOKEN_S: Final = 0.4
"""Assumed length of an answer with a TTLT promise, and time per token of it."""

INTERACTIVE_TBT_S: Final = 0.05
"""Pace of an interactive request that names none; any other's is OUTPUT_TOKEN_S."""


@mypyc_attr(allow_interpreted_subclasses=True)
class PaperPolicy(BasePolicy):
    """The artifact's `deadline` scheduler behind our seam.

    Args:
        model: The step-time model; its own margin is not used, the artifact's factor is.
        anchor: The artifact's, `paper`, counts tokens from the later of the first token and its
            deadline; `strict` counts those with a TBT promise from the first token as it came out.
        alpha_s_per_token: Weight of remaining prefill, seconds per token; 0.016 in Figure 8.
        output_tokens: Assumed length of an answer with a TTLT promise.
    """

    name = "paper"

    def __init__(
        self,
        model: LatencyModel,
        anchor: Anchor = "paper",
        alpha_s_per_token: float = 0.008,
        output_tokens: int = OUTPUT_TOKENS,
    ) -> None:
        super().__init__(model, anchor)
        self.alpha_s = alpha_s_per_token
        self.output_tokens = output_tokens
        self.prefill_rate = PREFILL_RATE
        self._order = Backlog()

    def plan(self, now_s: float, limits: Limits) -> Plan:
        """See `Policy.plan`. O(log n) in waiting requests, nothing per decode."""
        decodes = self.ledger.decode_shape(limits.tokens_per_decode)
        slack_s = self.slack_s(now_s)
        size = self._step_size(decodes, slack_s, limits)
        relegated = self._relegate(now_s, size - decodes.num_decode_tokens)
        capped = limits.capped(size)
        filled = fill(self.in_order(), self._started_in_order, decodes, now_s, None, capped, self.model)
        return self._planned(filled, slack_s, relegated, [])

    def observe(self, outcome: StepOutcome) -> None:
        """See `Policy.observe`. The rate is that of the steps with prefill, one in flight or more."""
        super().observe(outcome)
        duration_s = outcome.ended_at - outcome.started_at
        num_tokens = outcome.launch.shape.num_prefill_tokens
        if num_tokens > 0 and duration_s > 0 and outcome.is_clean:
            self.prefill_rate *= PREFILL_RATE_DECAY
            self.prefill_rate += (1 - PREFILL_RATE_DECAY) * num_tokens / duration_s

    def in_order(self) -> Iterator[Job]:
        """Yield prefills, most urgent first, those set aside last."""
        jobs = self.ledger.jobs
        for request_id in self._order:
            yield jobs[request_id]

    def _step_size(self, decodes: BatchShape, slack_s: float, limits: Limits) -> int:
        """Return the tokens of the step, decodes included.

        As in the artifact, the context of the whole chunk is that of the most urgent prefill.
        """
        is_low = limits.free_kv_tokens // LOW_MEMORY_SHARE < LOW_MEMORY_TOKENS
        sizes: Sequence[int] = STEP_SIZES_LOW_MEMORY if is_low else STEP_SIZES
        first = next(self.in_order(), None)
        context = first.computed if first is not None else 0
        best = sizes[0]
        low, high = 0, len(sizes) - 1
        while low <= high:
            middle = (low + high) // 2
            num_tokens = max(0, sizes[middle] - decodes.num_decode_tokens)
            predicted_s = self.model.predict_s(decodes.with_chunk(num_tokens, context))
            if TIME_FACTOR * predicted_s <= slack_s:
                best = sizes[middle]
                low = middle + 1
            else:
                high = middle - 1
        return best

    def _relegate(self, now_s: float, num_tokens: int) -> list[str]:
        """Set aside who would miss its deadline, among those whose turn comes in this step."""
        relegated: list[Job] = []
        for job in self.in_order():
            if num_tokens <= 0 or job.relegated:
                break
            done_at = now_s + job.remaining / self.prefill_rate
            if job.phase is Phase.WAITING and done_at > job.due_at:
                relegated.append(job)
            else:
                num_tokens -= job.remaining
        for job in relegated:
            job.relegated = True
            self._enqueue(job, now_s)
        return [job.request_id for job in relegated]

    def _deadline_at(self, request: Request) -> float:
        """Return the deadline of the prefill, which is what the artifact calls the TTFT deadline.

        The artifact knows two kinds of promise, a TTFT with a TBT and a TTLT. With both, the
        earlier counts; with neither, the prefill is due a day later.
        """
        slo = request.slo
        offsets: list[float] = []
        if slo.ttft_s is not None:
            offsets.append(slo.ttft_s)
        if slo.ttlt_s is not None:
            offsets.append(slo.ttlt_s - self.output_tokens * OUTPUT_TOKEN_S)
        return request.arrived_at + min(offsets, default=BEST_EFFORT_S)

    def _pace_anew(self, launch: int, outcome: StepOutcome) -> None:
        """Give each new decode its whole schedule of tokens; who is late stays so until it catches up."""
        for request_id in outcome.completed:
            job = self.ledger.jobs.get(request_id)
            if job is None or job.phase is not Phase.DECODING:
                continue
            slo = job.request.slo
            pace_s = slo.tbt_s or (INTERACTIVE_TBT_S if slo.is_interactive else OUTPUT_TOKEN_S)
            if job.first_token_at is None:
                job.first_token_at = outcome.ended_at
            # The engine may preempt, the artifact's never does: a resumed answer starts over.
            anchor_at = outcome.ended_at
            if self.anchor == "paper" or slo.tbt_s is None:
                anchor_at = max(anchor_at, job.due_at)
            self.pacer.join(request_id, pace_s, anchor_at + pace_s, launch + 1)

    def _started_in_order(self) -> list[Job]:
        return sorted(self.ledger.started.values(), key=lambda job: self._order.item(job.request_id).key)

    def _enqueue(self, job: Job, now_s: float) -> None:
        job.due_at = self._deadline_at(job.request)
        priority = job.due_at + self.alpha_s * job.remaining
        key = (job.relegated, priority, job.request.arrived_at)
        self._order.put(job.request_id, key, job.remaining / self.prefill_rate, job.due_at)

    def _dequeue(self, job: Job) -> None:
        self._order.discard(job.request_id)

    def _has_backlog(self) -> bool:
        return len(self._order) > 0
