"""What the engine can take: the room that it has for all, and what holds for single requests."""

from __future__ import annotations

from collections.abc import Container

from niyama.compiled import mypyc_attr

NOBODY: Container[str] = frozenset()


@mypyc_attr(allow_interpreted_subclasses=True)
class SharedKv:
    """Which KV of waiting requests others hold now: none. Engines that cache prefixes know more."""

    def num_tokens(self, request_id: str) -> int:
        """Return the leading cached tokens of a waiting request that take no free KV when it starts."""
        return 0


NOTHING_SHARED = SharedKv()


class Limits:
    """What the engine can take in the next step.

    Attributes:
        token_budget: Most tokens of one step, decodes included.
        free_seqs: How many more requests may start.
        free_kv_tokens: Tokens of KV cache that can be allocated without preempting anyone.
        tokens_per_decode: Tokens that one decoding request takes, > 1 with speculation.
        blocked: Waiting requests that the engine cannot start now whatever room there is (an adapter
            without a slot, a grammar still compiling).
        shared: Cached tokens of waiting requests that running ones hold, so that they are not free anyway.
    """

    __slots__ = ("blocked", "free_kv_tokens", "free_seqs", "shared", "token_budget", "tokens_per_decode")

    def __init__(
        self,
        token_budget: int,
        free_seqs: int,
        free_kv_tokens: int,
        tokens_per_decode: int = 1,
        blocked: Container[str] = NOBODY,
        shared: SharedKv = NOTHING_SHARED,
    ) -> None:
        self.token_budget = token_budget
        self.free_seqs = free_seqs
        self.free_kv_tokens = free_kv_tokens
        self.tokens_per_decode = tokens_per_decode
        self.blocked = blocked
        self.shared = shared

    def capped(self, num_tokens: int) -> Limits:
        """Return the limits with a token budget of at most `num_tokens`."""
        if num_tokens >= self.token_budget:
            return self
        return Limits(
            num_tokens,
            self.free_seqs,
            self.free_kv_tokens,
            self.tokens_per_decode,
            self.blocked,
            self.shared,
        )
