"""Decodes that have time sit a step out, so that an urgent prefill gets more of it.

A step that must be short holds one token of every decode, also of those that are due much later: of a
summary whose last token is due in minutes, of an answer that is far ahead of its reader. What they cost
is then missing for the prefill whose first token is due. Their work is not saved, only put off until
nothing is pressed; so this is for bursts, not for overload (FairBatching, SLAI: decodes with slack wait).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from niyama.scheduling.ledger import Job, Ledger
from niyama.scheduling.limits import Limits
from niyama.scheduling.policy import BatchShape, LatencyModel

PRESSED_STEPS: Final = 20.0
"""A prefill is urgent if it would be late should service start so many average steps later."""

GUARD_STEPS: Final = 2.0
"""Who sits out must have the time of so many average steps beyond this one."""

MIN_GAIN: Final = 0.1
"""The chunk must grow by this share, or nobody sits out."""

LEAST_SHARE: Final = 0.5
"""A gain counts as at most a doubling when work is estimated."""


class Sitting(NamedTuple):
    """Who may sit out.

    Attributes:
        request_ids: In order of their ids; none if it does not pay.
        decodes: The decodes that run.
        share: The time of a token with these decodes over that with all, `LEAST_SHARE` to 1.
    """

    request_ids: list[str]
    decodes: BatchShape
    share: float


def sit_out(
    ledger: Ledger,
    all_due: Iterable[tuple[str, float]],
    decodes: BatchShape,
    tightest_tbt_s: float,
    until_at: float,
    time_s: float,
    limits: Limits,
    model: LatencyModel,
) -> Sitting:
    """Return which decodes sit the next step out for the sake of prefill.

    Args:
        ledger: Where every request stands.
        all_due: Decodes, and when their next token is due.
        decodes: The step without prefill if all run.
        tightest_tbt_s: Who was promised this TBT never sits out: a flood of such requests is no burst,
            and their tokens would pile up.
        until_at: Who is due by then runs.
        time_s: Time for the whole step, seconds.
        limits: What the engine can take; whoever sits out holds its seat and its KV for longer, so
            there must be as many free.
        model: Predicts the step.

    Cost: O(decodes).
    """
    nobody = Sitting([], decodes, 1.0)
    if limits.tokens_per_decode > 1:
        return nobody  # whether models with recurrent state bear a gap in speculation is not known
    jobs: list[Job] = []
    for request_id, due_at in all_due:
        job = ledger.jobs[request_id]
        if due_at > until_at and (job.request.slo.tbt_s or math.inf) > tightest_tbt_s:
            jobs.append(job)
    context = sum([job.request.num_prompt_tokens + ledger.num_output_tokens(job) for job in jobs])
    if not jobs or context > limits.free_kv_tokens or len(jobs) > limits.free_seqs:
        return nobody
    others = BatchShape(
        0,
        decodes.num_decode_tokens - len(jobs),
        max(0, decodes.decode_context - context),
    )
    with_all = model.largest_chunk(decodes, 0, time_s, limits.token_budget)
    without = model.largest_chunk(others, 0, time_s, limits.token_budget)
    if without <= (1.0 + MIN_GAIN) * with_all:
        return nobody._replace(share=with_all / without if without else 1.0)
    request_ids = sorted([job.request_id for job in jobs])
    return Sitting(request_ids, others, max(LEAST_SHARE, with_all / without))
