"""A vLLM request as the policy sees it. The wall clock ends here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from niyama.asking import slo_from_xargs
from niyama.qos import QosBook, Slo
from niyama.scheduling.policy import Request

PROBE_KEY = "niyama_probe"
"""In `vllm_xargs`: a request of our own self-measurement, which counts in no statistics."""

PROBE_PREFIX = "niyama-probe-"
"""How the ids of such requests begin."""

WHOLE = frozenset({"stop", "length", "repetition"})
"""Finish reasons of a whole answer."""

MAX_AGE_S = 600.0
"""A request cannot have arrived longer ago than this: then the wall clock was set."""


@dataclass(frozen=True, slots=True)
class Viewed:
    """A request as the policy sees it, and what was wrong with what it asked for, if anything."""

    request: Request
    problem: str | None
    is_probe: bool
    problem_code: str | None = None


def arrived_at(request: Any, now_s: float) -> float:
    """Return the arrival on the monotonic clock, at most `now_s`.

    vLLM stamps `arrival_time` by the wall clock in the API server, so that the time spent there
    counts in the TTFT, as it does for the client.
    """
    age_s = time.time() - float(request.arrival_time)
    return now_s - min(max(age_s, 0.0), MAX_AGE_S)


def view(request: Any, num_cached_tokens: int, book: QosBook, now_s: float) -> Viewed:
    """Return the policy's view of a vLLM request that arrives, with so many tokens cached."""
    params = request.sampling_params
    extra: dict[str, Any] = getattr(params, "extra_args", None) or {}
    # No client can choose how an id begins: vLLM puts the name of the route before it.
    is_probe = bool(extra.get(PROBE_KEY)) and str(request.request_id).startswith(PROBE_PREFIX)
    ask = slo_from_xargs(extra, book)
    return Viewed(
        request=Request(
            request_id=request.request_id,
            arrived_at=arrived_at(request, now_s),
            slo=Slo() if is_probe else ask.slo,
            num_prompt_tokens=max(1, int(request.num_prompt_tokens)),
            max_tokens=max(1, int(request.max_tokens)),
            qos_class=ask.qos_class.name,
            tenant=ask.tenant,
            importance=ask.qos_class.importance,
            priority=int(request.priority),
            num_cached_tokens=num_cached_tokens,
            expected_output_tokens=ask.expected_output_tokens,
            tenant_weight=book.weight(ask.tenant),
        ),
        problem=ask.problem,
        is_probe=is_probe,
        problem_code=ask.problem_code,
    )


def plain_view(request: Any, book: QosBook, now_s: float) -> Viewed:
    """Return the view of a request of which nothing else could be told: of the default class."""
    default = book.default_class
    return Viewed(
        request=Request(
            request_id=request.request_id,
            arrived_at=now_s,
            slo=default.slo,
            num_prompt_tokens=max(1, int(request.num_prompt_tokens)),
            max_tokens=max(1, int(request.max_tokens)),
            qos_class=default.name,
            importance=default.importance,
        ),
        problem=None,
        is_probe=False,
    )


def is_whole(request: Any) -> bool:
    """Whether a vLLM request that has ended got its whole answer; else somebody gave it up.

    A stop string is found in the API server's process, which then aborts the request here. That cannot
    be told from a client that leaves, so an answer that may end by one counts as whole once it has begun
    (vllm/v1/engine/output_processor.py). A session has no other end than an abort.
    """
    reason = str(request.get_finished_reason())
    if reason != "abort":
        return reason in WHOLE
    if getattr(request, "resumable", False):
        return True
    stop = getattr(request.sampling_params, "stop", None)
    return bool(stop) and int(request.num_output_tokens) > 0
