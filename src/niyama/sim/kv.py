"""KV cache memory in blocks, as vLLM counts it (vllm/v1/core/kv_cache_manager.py).

A request holds whole blocks for the tokens in its KV. A decoding one needs a new block after as many
steps as a block has tokens; who needs one in which step is known when it begins to decode, so the pool
keeps a count per step number modulo the block size, and nothing is done per decode and step.
"""

from __future__ import annotations

from typing import Final

BLOCK_TOKENS: Final = 16
"""What vLLM takes on a GPU unless told otherwise; on a CPU it takes 128."""


class KvPool:
    """Blocks, free and taken (L4).

    Attributes:
        num_blocks: All of them.
        block_tokens: Tokens that a block holds, >= 1.
        free: Those that nobody holds.
    """

    __slots__ = ("_growers", "block_tokens", "free", "num_blocks")

    def __init__(self, num_blocks: int, block_tokens: int = BLOCK_TOKENS) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.free = num_blocks
        self._growers = [0] * block_tokens

    @property
    def num_free_tokens(self) -> int:
        """Tokens that fit into the free blocks."""
        return self.free * self.block_tokens

    def num_blocks_for(self, num_tokens: int) -> int:
        """Return the blocks that hold so many tokens."""
        return -(-num_tokens // self.block_tokens)

    def growth(self, step: int) -> int:
        """Return how many blocks the decoding requests need in a step."""
        return self._growers[step % self.block_tokens]

    def join(self, step: int, num_tokens: int) -> None:
        """Count a request that decodes from `step` on with so many tokens in KV before it."""
        self._growers[(step - num_tokens) % self.block_tokens] += 1

    def leave(self, step: int, num_tokens: int) -> None:
        """Take back what `join` was told."""
        self._growers[(step - num_tokens) % self.block_tokens] -= 1
