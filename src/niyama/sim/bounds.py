"""How many requests per second an engine could serve if nobody were waiting for it.

Every step holds prompt and answer tokens in the proportion in which they arrive, prompts whole, and
no request waits. No policy can keep up with more; what it serves less is the price of the deadlines,
and of the policy. A finite run can end in time at slightly more: requests left at its end wait longer.
"""

from __future__ import annotations

from typing import NamedTuple

from niyama.scheduling.policy import BatchShape, LatencyModel
from niyama.sim.live import ReplicaLimits
from niyama.workload.generate import Workload


class MeanRequest(NamedTuple):
    """The average request: its tokens, and the KV context of an average answer token."""

    num_prefill_tokens: float
    num_decode_tokens: float
    decode_context: float


class Bounds(NamedTuple):
    """Requests per second per replica.

    Attributes:
        qps: Without deadlines.
        tbt_qps: With every step within the tightest TBT of the classes.
    """

    qps: float
    tbt_qps: float


def mean_request(workload: Workload, role: str = "both") -> MeanRequest:
    """Return the workload's average request as a replica of this role sees it."""
    total = prefill = decode = context = 0.0
    for row, weight in workload.lengths.weighted():
        num_prefill, num_decode = row.num_prefill_tokens, row.num_decode_tokens
        # The first token comes out of the prefill; each further one is computed in a step of its own.
        num_steps = 0 if role == "prefill" else num_decode - 1
        total += weight
        prefill += weight * (1 if role == "decode" else num_prefill)
        decode += weight * num_steps
        context += weight * num_steps * (num_prefill + num_steps / 2)
    return MeanRequest(prefill / total, decode / total, context / decode if decode else 0.0)


def bounds(workload: Workload, profile: LatencyModel, limits: ReplicaLimits) -> Bounds:
    """Return both bounds of one replica; tries every size of a step."""
    request = mean_request(workload, limits.role)
    classes = workload.book.classes
    paces = [classes[name].slo.tbt_s for name in workload.class_shares]
    tightest_s = min((pace_s for pace_s in paces if pace_s is not None), default=float("inf"))
    best = best_in_time = 0.0
    for num_tokens in range(1, limits.max_num_batched_tokens + 1):
        rate = num_tokens / (request.num_prefill_tokens + request.num_decode_tokens)
        num_decodes = rate * request.num_decode_tokens
        kv_tokens = num_decodes * request.decode_context
        if num_decodes > limits.max_num_seqs or kv_tokens > limits.num_kv_tokens:
            break
        step_s = profile.predict_s(
            BatchShape(
                round(num_tokens - num_decodes),
                round(num_decodes),
                round(kv_tokens),
                0,
                rate * request.num_prefill_tokens**2 / 2,
            )
        )
        best = max(best, rate / step_s)
        if step_s <= tightest_s:
            best_in_time = max(best_in_time, rate / step_s)
    return Bounds(best, best_in_time)
