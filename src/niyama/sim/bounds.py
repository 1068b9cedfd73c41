"""How many requests per second an engine could serve if nobody were waiting for it.

Every step holds prompt and answer tokens in the proportion in which they arrive, prompts whole, and
no request waits. What a policy serves less is the price of the deadlines, and of the policy.

These are yardsticks, and tight ones, but no proofs: all steps are alike. A scheduler could choose steps
that are not, such as short contexts in large steps and long ones in small steps; what no scheduler
exceeds follows from `niyama.sim.prices` (Llama-3-8B, built-in traces: 1 to 9 % more). A finite run can end
in time at slightly more as well: requests left at its end wait longer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from niyama.scheduling.policy import BatchShape, LatencyModel
from niyama.sim.live import ReplicaLimits
from niyama.sim.prices import work_of
from niyama.workload.generate import Workload


class MeanRequest(NamedTuple):
    """The average request: its tokens, and what attention has to do for them.

    Attributes:
        num_prefill_tokens: Of its prompt.
        num_decode_tokens: Of its answer, but for the first.
        decode_context: Tokens in KV before an average one of these.
        attention_pairs: Prefill attention (`BatchShape`): with prompts whole, half the mean of their squares.
    """

    num_prefill_tokens: float
    num_decode_tokens: float
    decode_context: float
    attention_pairs: float


class Bounds(NamedTuple):
    """Requests per second per replica.

    Attributes:
        qps: Without deadlines.
        tbt_qps: With no step longer than the tightest TBT of those who read at that moment. Readers come
            one by one and read at the pace promised, so none of a class with rate r, n gaps in an
            answer and that TBT is there for a share exp(-r * n * TBT) of the time. A policy does better
            where it lets readers come in bunches, as far as their TTFT allows, and so has more time without
            any. (By the strict criterion a step may last longer than the TBT if shorter ones have paid
            for it: the mean step of an answer may not.)
    """

    qps: float
    tbt_qps: float


def mean_request(workload: Workload, role: str = "both") -> MeanRequest:
    """Return the workload's average request as a replica of this role sees it."""
    total = prefill = decode = context = pairs = 0.0
    for row, weight in workload.lengths.weighted():
        num_cached = row.num_prefill_tokens - 1 if role == "decode" else 0
        num_output = 1 if role == "prefill" else row.num_decode_tokens
        work = work_of(row.num_prefill_tokens, num_cached, num_output)
        total += weight
        prefill += weight * work.num_prefill_tokens
        decode += weight * work.num_decode_tokens
        context += weight * work.decode_context
        pairs += weight * work.attention_pairs
    return MeanRequest(prefill / total, decode / total, context / decode if decode else 0.0, pairs / total)


def bounds(workload: Workload, profile: LatencyModel, limits: ReplicaLimits) -> Bounds:
    """Return both bounds of one replica; tries every size of a step."""
    request = mean_request(workload, limits.role)
    readers = {} if limits.role == "prefill" else readers_per_qps(workload)
    fastest = dict.fromkeys([*sorted(readers), math.inf], 0.0)  # requests per second, by the longest step
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
                rate * request.attention_pairs,
            )
        )
        for limit_s, best in fastest.items():
            if step_s <= limit_s:
                fastest[limit_s] = max(best, rate / step_s)
    return Bounds(fastest[math.inf], _with_readers(fastest, readers))


def readers_per_qps(workload: Workload) -> dict[float, float]:
    """Return how many read at once at one request per second, at the pace promised, by TBT in seconds."""
    classes, weights = workload.book.classes, workload.class_weights
    total = 0.0
    found: defaultdict[float, float] = defaultdict(float)
    for row, weight in workload.lengths.weighted():
        total += weight
        shares = weights if row.qos_class is None else {row.qos_class: 1.0}
        for name, share in shares.items():
            tbt_s = classes[name].slo.tbt_s
            if tbt_s is not None and share > 0:
                readers = weight * share / sum(shares.values()) * (row.num_decode_tokens - 1) * tbt_s
                found[tbt_s] += readers
    return {tbt_s: readers / total for tbt_s, readers in found.items() if readers > 0}


def _with_readers(fastest: Mapping[float, float], readers: Mapping[float, float]) -> float:
    """Return the rate at which the mean over time, with each tightest reader and with none, is that rate."""
    low, high = 0.0, fastest[math.inf]
    for _ in range(50):
        qps = (low + high) / 2
        served = num_readers = 0.0
        share_left = 1.0
        for limit_s, rate in fastest.items():
            num_readers += qps * readers.get(limit_s, math.inf)
            served += (share_left - math.exp(-num_readers)) * rate
            share_left = math.exp(-num_readers)
        low, high = (qps, high) if served >= qps else (low, qps)
    return high
