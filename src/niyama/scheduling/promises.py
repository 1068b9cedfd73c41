"""Whether each request was served as promised (design: "When is a request late?", criterion strict).

Independent of the policy: the same verdict for every policy and host. A request is late if its
first token came after arrival + TTFT, any token n after first + (n - 1) * TBT, or its last
token after arrival + TTLT. Costs O(1) per step and O(log n) per first, late or last token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from niyama.scheduling.deadlines import first_token_due_at, last_token_due_at
from niyama.scheduling.pacing import Pacer
from niyama.scheduling.policy import Launch, Request, StepOutcome

Outcome = Literal["met", "missed", "aborted"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a request fared.

    Attributes:
        ttft_s: Arrival to first token; None if there was none.
        ttlt_s: Arrival to last token; None if it was aborted.
        slack_s: The least time that was left at any of its instants; negative is late; infinite
            if nothing was promised.
    """

    request: Request
    outcome: Outcome
    ttft_s: float | None
    ttlt_s: float | None
    slack_s: float


class _Record:
    __slots__ = ("first_token_at", "request", "slack_s")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.first_token_at: float | None = None
        self.slack_s = math.inf


class Promises:
    """Follows every request from arrival to its verdict."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._pacer = Pacer()
        self._num_launches = 0
        self._num_observed = 0

    def arrive(self, request: Request) -> None:
        """Follow a request."""
        self._records[request.request_id] = _Record(request)

    def begin(self, launch: Launch) -> None:
        """Count a launch; stalled and preempted requests fall behind by a token."""
        for request_id in (*launch.stalled, *launch.preempted):
            self._pacer.shift(request_id, -1)
        self._num_launches += 1

    def observe(self, outcome: StepOutcome) -> list[Request]:
        """Judge the tokens of a step; return the requests that broke their pace by it."""
        number = self._num_observed
        self._num_observed += 1
        for request_id, num_tokens in outcome.extra_tokens.items():
            self._pacer.shift(request_id, num_tokens)
        late: list[Request] = []
        for request_id, _, due_at in self._pacer.take_late(number, outcome.ended_at):
            record = self._records[request_id]
            record.slack_s = min(record.slack_s, due_at - outcome.ended_at)
            late.append(record.request)
        for request_id in outcome.completed:
            self._first_token(request_id, outcome.ended_at, number)
        return late

    def end(self, request_id: str, now_s: float, *, aborted: bool = False) -> Verdict | None:
        """Return the verdict on a request whose last token came out now; None for a stranger."""
        record = self._records.pop(request_id, None)
        if record is None:
            return None
        self._pacer.leave(request_id)
        request, first_at = record.request, record.first_token_at
        ttft_s = None if first_at is None else first_at - request.arrived_at
        if aborted:
            return Verdict(request, "aborted", ttft_s, None, record.slack_s)
        slack_s = min(record.slack_s, last_token_due_at(request) - now_s)
        if first_at is None:
            slack_s = min(slack_s, first_token_due_at(request) - now_s)
        outcome: Outcome = "met" if slack_s >= 0 else "missed"
        return Verdict(request, outcome, ttft_s, now_s - request.arrived_at, slack_s)

    def _first_token(self, request_id: str, now_s: float, number: int) -> None:
        record = self._records.get(request_id)
        if record is None or record.first_token_at is not None:
            return
        record.first_token_at = now_s
        record.slack_s = min(record.slack_s, first_token_due_at(record.request) - now_s)
        tbt_s = record.request.slo.tbt_s
        if tbt_s is not None:
            self._pacer.join(request_id, tbt_s, now_s + tbt_s, number + 1)
