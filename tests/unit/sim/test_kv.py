from __future__ import annotations

import pytest

from niyama.sim.kv import KvPool


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_blocks_hold_sixteen_tokens(tokens: int, blocks: int) -> None:
    assert KvPool(0).num_blocks_for(tokens) == blocks


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (128, 1), (129, 2)])
def test_blocks_hold_as_many_tokens_as_the_engine_says(tokens: int, blocks: int) -> None:
    pool = KvPool(3, 128)
    assert pool.num_blocks_for(tokens) == blocks
    assert pool.num_free_tokens == 384


@pytest.mark.parametrize("block_tokens", [16, 128])
@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 100])
def test_growth_over_many_steps_is_that_of_the_tokens(num_tokens: int, block_tokens: int) -> None:
    pool = KvPool(1000, block_tokens)
    pool.join(7, num_tokens)
    held = pool.num_blocks_for(num_tokens)
    for step in range(7, 307):
        held += pool.growth(step)
        assert held == pool.num_blocks_for(num_tokens + step - 7 + 1)
    pool.leave(7, num_tokens)
    assert not any(pool.growth(step) for step in range(block_tokens))
