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
from niyama.scheduling.policy import Request, StepOutcome

Outcome = Literal["met", "missed", "aborted"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a request fared.

    Attributes:
        ttft_s: Arrival to first token; None if there was none.
        ttlt_s: Arrival to last token; None if it was aborted.
        slack_s: Time that was left at the tighter of the first and the last token; negative if
            any token was late, and then at least by how much; infinite if nothing was promised.
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
        self._owed: dict[str, float] = {}  # the next token of a preempted answer, and when it is due
        self._num_observed = 0

    def arrive(self, request: Request) -> None:
        """Follow a request."""
        self._records[request.request_id] = _Record(request)

    def observe(self, outcome: StepOutcome) -> list[Request]:
        """Judge the tokens of a step; return the requests that broke their pace by it.

        A token that was due and did not come, in a stalled or preempted answer, is late as well.
        """
        number, now_s = self._num_observed, outcome.ended_at
        self._num_observed += 1
        late = [self._late(i, due_at - now_s) for i, _, due_at in self._pacer.take_late(number, now_s)]
        for request_id in outcome.launch.preempted:
            if request_id in self._pacer:
                self._owed[request_id] = self._pacer.due_at(request_id, number)
                self._pacer.leave(request_id)
        for request_id in outcome.launch.stalled:
            self._pacer.shift(request_id, -1)
        for request_id, num_tokens in outcome.extra_tokens.items():
            self._pacer.shift(request_id, num_tokens)
        for request_id in outcome.completed:
            due_at = self._owed.pop(request_id, None)
            if due_at is None:
                self._first_token(request_id, now_s, number)
            elif due_at < now_s:
                late.append(self._late(request_id, due_at - now_s))
            else:
                self._pace(request_id, due_at, number + 1)
        return late

    def end(self, request_id: str, now_s: float, *, aborted: bool = False) -> Verdict | None:
        """Return the verdict on a request whose last token came out now; None for a stranger."""
        record = self._records.pop(request_id, None)
        if record is None:
            return None
        self._pacer.leave(request_id)
        self._owed.pop(request_id, None)
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
        self._pace(request_id, now_s, number + 1)

    def _pace(self, request_id: str, token_at: float, number: int) -> None:
        """Expect a token from step `number`, one TBT after the last was due (the first: came)."""
        tbt_s = self._records[request_id].request.slo.tbt_s
        if tbt_s is not None:
            self._pacer.join(request_id, tbt_s, token_at + tbt_s, number)

    def _late(self, request_id: str, slack_s: float) -> Request:
        record = self._records[request_id]
        record.slack_s = min(record.slack_s, slack_s)
        return record.request
