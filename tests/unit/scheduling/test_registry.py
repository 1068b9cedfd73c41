from __future__ import annotations

from pathlib import Path

import pytest
from tests.property.hosts import linear_model

from niyama.scheduling.registry import POLICIES, make_policy


def test_make_policy_each_name_gives_a_fresh_policy_of_that_name() -> None:
    for name in POLICIES:
        first, second = make_policy(name, linear_model()), make_policy(name, linear_model(), "paper", 64)
        assert first.name == name
        assert first is not second
        assert (first.anchor, second.anchor) == ("strict", "paper")


def test_make_policy_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="policy: 'best' is unknown; allowed: edf, fcfs, niyama, paper"):
        make_policy("best", linear_model())


def test_add_a_policy_page_names_every_policy() -> None:
    page = Path(__file__).parents[3].joinpath("docs", "add-a-policy.md").read_text()
    assert {name for name in POLICIES if f"`{name}`" in page} == set(POLICIES)
