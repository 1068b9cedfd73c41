"""What a run will send: each request with its instant, its lengths and its class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from niyama.qos import Importance
from niyama.wording import shown
from niyama.workload.generate import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A request to send.

    Attributes:
        id: Unique in the run.
        due_at: When, seconds from the start of the run.
        num_prompt_tokens: Prompt length, >= 1.
        num_output_tokens: Length to force on the answer, >= 1.
        importance: That of the class: a live server takes it from there.
        extra: Fields of the JSON body that go over all others (a bad one, say).
        leave_after_s: Hang up so long after sending, answered or not; None to stay.
    """

    id: str
    due_at: float
    num_prompt_tokens: int
    num_output_tokens: int
    qos_class: str = "default"
    tenant: str = ""
    importance: Importance = Importance.NORMAL
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    leave_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How the lengths of a trace are fitted to a model.

    Attributes:
        scale: Factor on prompt and output lengths, > 0.
        max_prompt: Longest prompt after scaling, tokens; None for no cut.
        max_output: Longest output after scaling, tokens; None for no cut.
        max_total: Longest prompt and output together: the context of the model. The prompt is cut
            for it, the output only where it alone is too long.
        min_prompt: Shortest prompt: a chat template alone has a few tokens.
    """

    scale: float = 1.0
    max_prompt: int | None = None
    max_output: int | None = None
    max_total: int | None = None
    min_prompt: int = 1

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing to send."""
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale: {self.scale!r} is no factor; allowed: a number > 0")
        for name in ("max_prompt", "max_output"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {shown(value)} leaves no tokens; allowed: a whole number >= 1")
        if self.max_total is not None and self.max_total < self.min_prompt + 1:
            raise ValueError(
                f"max_total: {self.max_total} leaves no room for an answer; "
                f"allowed: a whole number > {self.min_prompt}"
            )

    def fit(self, num_prompt_tokens: int, num_output_tokens: int) -> tuple[int, int]:
        """Return the lengths that are sent for those of the trace."""
        prompt = max(self.min_prompt, round(num_prompt_tokens * self.scale))
        output = max(1, round(num_output_tokens * self.scale))
        prompt = max(self.min_prompt, min(prompt, self.max_prompt or prompt))
        output = min(output, self.max_output or output)
        if self.max_total is not None:
            output = min(output, self.max_total - self.min_prompt)
            prompt = min(prompt, self.max_total - output)
        return prompt, output

    def is_cut(self, num_prompt_tokens: int, num_output_tokens: int) -> bool:
        """Whether more than the scale was done to the lengths."""
        free = replace(self, max_prompt=None, max_output=None, max_total=None)
        return self.fit(num_prompt_tokens, num_output_tokens) != free.fit(
            num_prompt_tokens, num_output_tokens
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All requests of a run, in order of their instants, and how many had their lengths cut."""

    requests: list[Planned]
    num_cut: int

    @property
    def last_due_at(self) -> float:
        """When the last request is sent; 0 without any."""
        return self.requests[-1].due_at if self.requests else 0.0

    @property
    def mean_output_tokens(self) -> float:
        """Output tokens of a request, on average."""
        return sum(r.num_output_tokens for r in self.requests) / max(1, len(self.requests))


def make_plan(
    workload: Workload,
    qps: float,
    *,
    num_requests: int | None = None,
    seconds: float | None = None,
    lengths: Lengths | None = None,
) -> Plan:
    """Return the requests of a workload at a rate; the same arguments give the same requests.

    Args:
        workload: Arrivals, lengths and classes.
        qps: Requests per second, on average.
        num_requests: How many; None for as many as arrive within `seconds`.
        seconds: For how long they arrive; used where `num_requests` is None.
        lengths: How lengths are fitted; None leaves them.
    """
    lengths = lengths or Lengths()
    if num_requests is None:
        arrivals = workload.requests(qps, 2**62)
        limit_s = seconds or 0.0
        arrivals = takewhile(lambda arrival: arrival.request.arrived_at < limit_s, arrivals)
    else:
        arrivals = workload.requests(qps, num_requests)
    requests: list[Planned] = []
    num_cut = 0
    for arrival in arrivals:
        asked = arrival.request
        prompt, output = lengths.fit(asked.num_prompt_tokens, arrival.num_output_tokens)
        num_cut += lengths.is_cut(asked.num_prompt_tokens, arrival.num_output_tokens)
        requests.append(
            Planned(
                id=asked.request_id,
                due_at=asked.arrived_at,
                num_prompt_tokens=prompt,
                num_output_tokens=output,
                qos_class=asked.qos_class,
                tenant=asked.tenant,
                importance=workload.book.classes[asked.qos_class].importance,
            )
        )
    return Plan(requests, num_cut)
