"""Who was late, by each of the three criteria (design: "When is a request late?").

All three follow from three facts of a request: when its first and its last token came out, and how
far its slowest token lagged behind a steady pace of one TBT per token. The lag is computed
once, from the step ends, when a request ends; nothing is done per token before.
"""

from __future__ import annotations

import math
from array import array
from typing import Literal, NamedTuple, get_args

import numpy as np

from niyama.scheduling.policy import Request

Criterion = Literal["strict", "paper", "artifact"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

TOLERANCE_S = 1e-9
"""Instants are sums of many durations; a token this much after its due time came when due."""


class Served(NamedTuple):
    """A finished request.

    Attributes:
        worst_s: Latest of (instant of token n) - n * TBT, n from 0, over its tokens; 0 without a TBT.
        is_relegated: Whether it was ever set aside.
    """

    request: Request
    first_at: float
    finished_at: float
    num_tokens: int
    worst_s: float
    is_relegated: bool
    num_preempted: int

    def is_late(self, criterion: Criterion) -> bool:
        """Whether any promise was broken, by one of the criteria."""
        arrived_at, slo = self.request.arrived_at, self.request.slo
        first_due_at = math.inf if slo.ttft_s is None else arrived_at + slo.ttft_s
        if self.first_at > first_due_at + TOLERANCE_S:
            return True
        if slo.ttlt_s is not None and self.finished_at > arrived_at + slo.ttlt_s + TOLERANCE_S:
            return True
        if slo.tbt_s is None or criterion == "artifact":
            return False
        anchor_at = first_due_at if criterion == "paper" and slo.ttft_s is not None else self.first_at
        return self.worst_s > anchor_at + TOLERANCE_S


def worst_lag_s(token_at: array[float], tbt_s: float, first_number: int) -> float:
    """Return the latest of (instant of token n) - n * `tbt_s`; the first of them has `first_number`."""
    numbers = np.arange(first_number, first_number + len(token_at))
    return float((np.frombuffer(token_at) - tbt_s * numbers).max())
