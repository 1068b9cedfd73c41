"""What an emulated device needs to know of a step: its shape, and who gets a token."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from niyama.scheduling.policy import BatchShape


@dataclass(slots=True)
class Live:
    """A request that the worker holds.

    Attributes:
        num_prompt_tokens: Length of the prompt.
        salt: Number that follows from the prompt; equal prompts get equal answers.
        num_logprobs: How many alternatives it wants per token; None for no logprobs.
        min_tokens: Fewest tokens of its answer.
        scored_prompt: The prompt, if logprobs of it are wanted; else None.
        num_prompt_logprobs: How many alternatives per token of it.
    """

    num_prompt_tokens: int
    salt: int
    num_logprobs: int | None
    min_tokens: int
    scored_prompt: list[int] | None
    num_prompt_logprobs: int


class Emission(NamedTuple):
    """One token that a step puts out: whose, and the how manieth of its answer, from 0."""

    request_id: str
    place: int


@dataclass(slots=True)
class Batch:
    """A step.

    Attributes:
        request_ids: Every request in it, in vLLM's order.
        shape: What its duration depends on.
        emissions: The tokens that it puts out: one per decode and per finished prefill.
    """

    request_ids: list[str]
    shape: BatchShape
    emissions: list[Emission]


class LiveRequests:
    """The requests on the worker, from one SchedulerOutput of vLLM's to the next."""

    def __init__(self) -> None:
        self._live: dict[str, Live] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __getitem__(self, request_id: str) -> Live:
        return self._live[request_id]

    def take_in(self, output: Any) -> Batch:
        """Take in a SchedulerOutput and return its step. O(requests in it).

        A request decodes when all but the last of its tokens are in KV and it has an answer already;
        else it is in prefill, for the first time or again after it lost its KV.
        """
        for request_id in output.finished_req_ids:
            self._live.pop(request_id, None)
        for new in output.scheduled_new_reqs:
            self._live[new.req_id] = _live(new)
        shape = BatchShape(0, 0)
        num_decodes = decode_context = 0
        emissions: list[Emission] = []
        scheduled: dict[str, int] = output.num_scheduled_tokens
        for request_id, computed, num_outputs in _progress(output):
            num_tokens = scheduled.get(request_id, 0)
            if not num_tokens:
                continue
            total = self._live[request_id].num_prompt_tokens + num_outputs
            if num_outputs and computed == total - 1:
                num_decodes += 1
                decode_context += computed
            else:
                shape = shape.with_chunk(num_tokens, computed)
            if computed + num_tokens >= total:
                emissions.append(Emission(request_id, num_outputs))
        shape = shape._replace(num_decode_tokens=num_decodes, decode_context=decode_context)
        return Batch(list(scheduled), shape, emissions)


def _live(new: Any) -> Live:
    params = new.sampling_params
    prompt = new.prompt_token_ids
    if prompt is None:  # a prompt of embeddings
        num_prompt_tokens, salt = len(new.prompt_embeds), 0
    else:
        num_prompt_tokens, salt = len(prompt), zlib.crc32(array("q", prompt).tobytes())
    return Live(
        num_prompt_tokens=num_prompt_tokens,
        salt=salt,
        num_logprobs=None if params is None else params.logprobs,
        min_tokens=0 if params is None else int(params.min_tokens),
        scored_prompt=None if params is None or params.prompt_logprobs is None else prompt,
        num_prompt_logprobs=0 if params is None else int(params.prompt_logprobs or 0),
    )


def _progress(output: Any) -> Iterator[tuple[str, int, int]]:
    """Return id, tokens in KV and tokens of the answer, of every request of a SchedulerOutput."""
    for new in output.scheduled_new_reqs:
        # vLLM's second model runner gets a request that lost its KV as a new one, answer included.
        whole = getattr(new, "prefill_token_ids", None) or new.prompt_token_ids
        num_outputs = 0 if whole is None else len(whole) - len(new.prompt_token_ids)
        yield new.req_id, int(new.num_computed_tokens), num_outputs
    cached = output.scheduled_cached_reqs
    yield from zip(cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True)
