"""What vLLM's prefix cache has for requests that wait: found on arrival, and followed until they start.

Requests that share a long prompt often arrive together. Once the first has computed a block, the others
need not; a policy that does not hear of it counts their work many times over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from niyama.engines.vllm import compat
from niyama.scheduling.limits import SharedKv
from niyama.scheduling.policy import Launch


class PrefixCache(SharedKv):
    """The cached beginnings of waiting requests.

    Of a waiting request only its first block that is not cached is watched; so a step costs O(blocks
    that it computes), and a request O(blocks that it gains).
    """

    def __init__(self, scheduler: Any, requests: Mapping[str, Any]) -> None:
        """Take vLLM's scheduler and all of its requests by id, a mapping that is kept up to date."""
        self._requests = requests
        self._manager = scheduler.kv_cache_manager
        self._block_tokens = compat.hash_block_size(scheduler)
        self._is_on = bool(getattr(self._manager, "enable_caching", False))
        self._groups = list(range(len(self._manager.kv_cache_config.kv_cache_groups)))
        self._watched: dict[Any, set[str]] = {}  # who waits for a block, by the block's hash
        self._found: dict[str, tuple[int, Any]] = {}  # how many blocks are cached, and the hash of the next

    def watch(self, request: Any) -> int:
        """Follow a request that arrives; return how many of its leading tokens are cached. O(such blocks).

        A look only: it takes no block and counts in no statistics, as vLLM's own look-up would
        (vllm/v1/core/kv_cache_manager.py, get_computed_blocks). 0 where it cannot be told.
        """
        if not self._is_on or getattr(request, "skip_reading_prefix_cache", False):
            return 0
        num_tokens = self._watch(request, 0) * self._block_tokens
        return min(num_tokens, int(request.num_prompt_tokens) - 1)

    def forget(self, request_id: str) -> None:
        """A request has started, or is gone; strangers pass."""
        found = self._found.pop(request_id, None)
        if found is not None:
            _, block_hash = found
            waiting = self._watched[block_hash]
            waiting.discard(request_id)
            if not waiting:
                del self._watched[block_hash]

    def launched(self, launch: Launch, tell: Callable[[str, int], None]) -> None:
        """Tell who has more cached by a launch, and how many tokens in all."""
        for done in launch.prefills:
            self.forget(done.request_id)
        if not self._watched:
            return
        for block_hash in self._computed(launch):
            for request_id in sorted(self._watched.get(block_hash, ())):
                num_blocks, _ = self._found[request_id]
                self.forget(request_id)
                num_blocks = self._watch(self._requests[request_id], num_blocks)
                tell(request_id, num_blocks * self._block_tokens)

    def num_tokens(self, request_id: str) -> int:
        """See `SharedKv`. O(log blocks): who holds a block holds all before it."""
        request = self._requests.get(request_id)
        if request is None or not self._is_on:
            return 0
        hashes = request.block_hashes
        low, high = 0, len(hashes)
        while low < high:
            middle = (low + high) // 2
            blocks = self._manager.block_pool.get_cached_block(hashes[middle], self._groups)
            if blocks is not None and all([block.ref_cnt > 0 for block in blocks]):
                low = middle + 1
            else:
                high = middle
        return low * self._block_tokens

    def _computed(self, launch: Launch) -> Iterator[Any]:
        """Yield the hashes of the blocks that a launch fills."""
        for done in launch.prefills:
            request = self._requests.get(done.request_id)
            if request is not None:
                first = (done.computed - done.num_tokens) // self._block_tokens
                yield from request.block_hashes[first : done.computed // self._block_tokens]

    def _watch(self, request: Any, num_blocks: int) -> int:
        """Watch a request's first block from a place on that is not cached; return how many are."""
        for block_hash in request.block_hashes[num_blocks:]:
            if self._manager.block_pool.get_cached_block(block_hash, self._groups) is None:
                self._found[request.request_id] = (num_blocks, block_hash)
                self._watched.setdefault(block_hash, set()).add(request.request_id)
                break
            num_blocks += 1
        return num_blocks
