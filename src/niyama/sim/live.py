"""A request inside a simulated engine, and what an engine can hold."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Literal, get_args

from niyama.compiled import mypyc_attr
from niyama.scheduling.policy import Request
from niyama.sim.kv import BLOCK_TOKENS

Role = Literal["both", "prefill", "decode"]


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLimits:
    """What an engine can hold.

    Attributes:
        num_kv_tokens: KV cache, tokens; the default is what Llama-3-8B leaves of 80 GB at 90 %.
        max_num_seqs: Most requests that run at once.
        max_num_batched_tokens: Most tokens of one step.
        role: "prefill" ends every request with its first token; "decode" gets requests whose
            prompt is computed elsewhere, all but its last token.
        block_tokens: Tokens of a block of KV; blocks are whole, a remainder of `num_kv_tokens` is no use.
    """

    num_kv_tokens: int = 425_000
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    role: Role = "both"
    block_tokens: int = BLOCK_TOKENS

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that no engine has."""
        for name in ("num_kv_tokens", "max_num_seqs", "max_num_batched_tokens", "block_tokens"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}: {value!r} is not allowed; give a whole number >= 1")
        if self.role not in get_args(Role):
            raise ValueError(f"role: {self.role!r} is unknown; allowed: {', '.join(get_args(Role))}")


class Live:
    """A request in the engine. A stretch is a run of steps in which it emits a token in each.

    Attributes:
        computed: Tokens in KV; within a stretch, after its first step.
        num_blocks: Blocks held; within a stretch, after its first step.
        is_running: Whether it holds KV.
        first_step: First step of the present stretch; -1 if it is in none.
        num_emitted: Tokens emitted before the present stretch.
        first_at: Instant of the first token; negative before it.
        last_at: Instant of the last token of the last stretch that is over.
        worst_s: See `verdicts.worst_lag_s`, over the stretches that are over.
    """

    __slots__ = (
        "computed",
        "first_at",
        "first_step",
        "is_relegated",
        "is_running",
        "last_at",
        "num_blocks",
        "num_emitted",
        "num_output",
        "num_preempted",
        "request",
        "request_id",
        "worst_s",
    )

    def __init__(self, request: Request, num_output: int) -> None:
        self.request = request
        self.request_id = request.request_id
        self.num_output = num_output
        self.computed = 0
        self.num_blocks = 0
        self.is_running = False
        self.first_step = -1
        self.num_emitted = 0
        self.first_at = -1.0
        self.last_at = -1.0
        self.worst_s = 0.0
        self.is_relegated = False
        self.num_preempted = 0

    @property
    def num_to_compute(self) -> int:
        """Tokens to be in KV before the next output token, outside a stretch."""
        return self.request.num_prompt_tokens + self.num_emitted

    @property
    def num_cached(self) -> int:
        """Tokens that need no computing when it starts; whoever was preempted has lost them."""
        if self.num_preempted:
            return 0
        return min(self.request.num_cached_tokens, self.request.num_prompt_tokens - 1)

    @property
    def last_step(self) -> int:
        """The step that emits its last token, within a stretch."""
        return self.first_step + self.num_output - self.num_emitted - 1

    def num_kv_tokens(self, step: int) -> int:
        """Return the tokens in its KV before a step of its stretch, not the first."""
        return self.computed + step - 1 - self.first_step


class Gaps:
    """The time between tokens of one class: stretches, and the gaps between two stretches."""

    __slots__ = ("first_steps", "last_steps", "others_s")

    def __init__(self) -> None:
        self.first_steps = array("q")
        self.last_steps = array("q")
        self.others_s = array("d")
