from __future__ import annotations

import pytest

from niyama.sim.kv import KvPool, num_blocks_for


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_blocks_hold_sixteen_tokens(tokens: int, blocks: int) -> None:
    assert num_blocks_for(tokens) == blocks


@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 100])
def test_growth_over_many_steps_is_that_of_the_tokens(num_tokens: int) -> None:
    pool = KvPool(1000)
    pool.join(7, num_tokens)
    held = num_blocks_for(num_tokens)
    for step in range(7, 107):
        held += pool.growth(step)
        assert held == num_blocks_for(num_tokens + step - 7 + 1)
    pool.leave(7, num_tokens)
    assert not any(pool.growth(step) for step in range(16))
