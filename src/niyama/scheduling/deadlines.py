"""When the parts of a request are due (paper, "QoS classes"). Pure functions of instants.

With arrival a: the first token is due at a + TTFT, the last at a + TTLT. A prefill must be done
when its first token is due, or early enough that the expected output still fits before the last
token is due. Both anchors for the pace of an interactive request are here: `strict` counts from
the first token as it came out, `paper` from the instant at which it was due.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from niyama.qos import Slo
from niyama.scheduling.pacing import PACE_CAP_S, on_grid
from niyama.scheduling.policy import Request

Anchor = Literal["strict", "paper"]

BEST_EFFORT_S = 24 * 3600.0
"""Where a promise sets no deadline for the prefill, it is ordered as if due a day later."""

TIGHTEST_PACES: Final = 1.25
STEPS_AS_THEY_ARE: Final = 2.0
LEISURE_SHARE: Final = 1 / 3
"""Answers with a TTLT are planned with steps so many times the tightest pace (a pace is rounded down by
up to a fifth), so many times those that are, for at most this share of the time that is left."""

LONGEST_TIMES: Final = 5
KEPT_SHARE: Final = 0.5
WARY_STEPS: Final = 8.0
"""An answer with a TTLT may be so many times as long as expected. What more that is, in steps without
prefill, is kept of the time that is left, at most this share; but for its sake no pace is faster than so
many such steps."""

STRETCH: Final = 1.5
"""A pace faster than a decode-only step cannot be kept; it is held to this many such steps, which
leaves a third of the time to prefills instead of none."""


def first_token_due_at(request: Request) -> float:
    """Return when the first token is due; infinite without a TTFT promise."""
    ttft_s = request.slo.ttft_s
    return math.inf if ttft_s is None else request.arrived_at + ttft_s


def last_token_due_at(request: Request) -> float:
    """Return when the last token is due; infinite without a TTLT promise."""
    ttlt_s = request.slo.ttlt_s
    return math.inf if ttlt_s is None else request.arrived_at + ttlt_s


def prefill_due_at(request: Request, expected_output: int, decode_step_s: float) -> float:
    """Return when the prefill must be done for every promise to be kept.

    Args:
        request: The request.
        expected_output: Output tokens expected in all.
        decode_step_s: Expected time of one output token once it decodes.

    Returns:
        An instant; a day after arrival if no promise binds the prefill.
    """
    pace_s = decode_step_s if request.slo.tbt_s is None else min(decode_step_s, request.slo.tbt_s)
    due_at = min(first_token_due_at(request), last_token_due_at(request) - expected_output * pace_s)
    return due_at if math.isfinite(due_at) else request.arrived_at + BEST_EFFORT_S


def unhurried_step_s(request: Request, expected_output: int, step_s: float, tightest_s: float) -> float:
    """Return the step time to plan an answer with, so that it need not hurry the steps of all.

    An answer whose prefill ends just in time for steps as they are binds them to that time, the next one
    to less, and so on: chunks shrink until the engine does little but launch steps. So there is time for
    steps a little longer than the tightest promised pace, or than they are, out of what its TTLT leaves.

    Args:
        request: The request.
        expected_output: Output tokens expected in all, >= 1.
        step_s: Average time of a step.
        tightest_s: The tightest TBT promised to anybody; infinite if none is.

    Returns:
        Seconds per token, at least `step_s`.
    """
    left_s = last_token_due_at(request) - request.arrived_at - expected_output * step_s
    longest_s = min(TIGHTEST_PACES * tightest_s, STEPS_AS_THEY_ARE * step_s)
    return step_s + max(0.0, min(longest_s - step_s, LEISURE_SHARE * left_s / expected_output))


def needed_pace_s(slo: Slo, time_left_s: float, tokens_left: int, decode_step_s: float) -> float:
    """Return the time per token that a decoding request needs.

    The stricter of its TBT and of what brings the last token in time. What cannot be kept at all
    (a TTLT that is lost, a pace faster than decode-only steps) does not hold prefills back
    for nothing.

    Args:
        slo: The promise.
        time_left_s: Time until the last token is due; infinite without TTLT.
        tokens_left: Output tokens still expected, >= 1.
        decode_step_s: Expected duration of a step without prefill.

    Returns:
        Seconds per token in (0, PACE_CAP_S].
    """
    pace_s = PACE_CAP_S
    if slo.tbt_s is not None:
        pace_s = min(slo.tbt_s, PACE_CAP_S)
        if pace_s < decode_step_s:
            pace_s = on_grid(STRETCH * decode_step_s)
    if math.isfinite(time_left_s):
        ttlt_pace_s = time_left_s / tokens_left
        if ttlt_pace_s > decode_step_s:
            pace_s = min(pace_s, on_grid(ttlt_pace_s))
    return pace_s


def wary_pace_s(
    request: Request, time_left_s: float, expected_output: int, tokens_left: int, step_s: float
) -> float:
    """Return the pace that also leaves time for an answer that turns out longer than expected.

    At `needed_pace_s` the expected answer takes all the time there is, and one that goes on is late.

    Args:
        request: The request.
        time_left_s: Time until the last token is due; infinite without TTLT.
        expected_output: Output tokens expected in all, >= 1.
        tokens_left: Those of them that are still to come, >= 1.
        step_s: Expected duration of a step without prefill.

    Returns:
        Seconds per token in (0, PACE_CAP_S], at most `needed_pace_s`.
    """
    pace_s = needed_pace_s(request.slo, time_left_s, tokens_left, step_s)
    num_more = min(LONGEST_TIMES * expected_output, request.max_tokens) - expected_output
    if num_more <= 0 or not 0 < time_left_s < math.inf:
        return pace_s
    kept_s = min(KEPT_SHARE * time_left_s, num_more * step_s)
    wary_s = needed_pace_s(request.slo, time_left_s - kept_s, tokens_left, step_s)
    return min(pace_s, max(wary_s, on_grid(WARY_STEPS * step_s)))


def second_token_due_at(request: Request, first_token_at: float, pace_s: float, anchor: Anchor) -> float:
    """Return when the token after the first is due, by either anchor."""
    if anchor == "paper" and request.slo.ttft_s is not None:
        return max(first_token_at, first_token_due_at(request)) + pace_s
    return first_token_at + pace_s
