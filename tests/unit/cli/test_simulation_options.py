from __future__ import annotations

import argparse

import pytest

from niyama.cli.simulation_options import add_options, make_setup


@pytest.mark.parametrize(
    ("words", "num_kv_tokens"),
    [
        ("", 425_000),
        ("--profile a100-80gb/llama-2-7b/tp2", 245_000),
        ("--profile h100-80gb/llama-3-70b/tp4", 445_000),
        ("--profile h100-80gb/llama-3-70b/tp4 --kv-tokens 1000", 1000),
    ],
)
def test_kv_tokens_are_what_the_profile_leaves_unless_given(words: str, num_kv_tokens: int) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    setup = make_setup(parser.parse_args(words.split()), "edf")
    assert setup.limits.num_kv_tokens == num_kv_tokens
