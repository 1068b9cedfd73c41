"""The sizes at which a step's time is best spent, against the hull drawn by brute force."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from niyama.latency import get_profile
from niyama.latency.fitted import FITTED
from niyama.latency.stairs import Stairs
from niyama.scheduling.policy import BatchShape

gaps = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=6)


def curve(steps: list[tuple[int, int]]) -> tuple[list[int], list[float]]:
    """Return knots: tokens that rise, times that never fall."""
    return list(accumulate(n for n, _ in steps)), [float(t) for t in accumulate(t for _, t in steps)]


def at(tokens: list[int], times_s: list[float], size: int) -> float:
    """Return the time of a size between the first and the last knot."""
    for (n0, t0), (n1, t1) in zip(
        zip(tokens, times_s, strict=True), zip(tokens[1:], times_s[1:], strict=True), strict=False
    ):
        if n0 <= size <= n1:
            return t0 + (t1 - t0) * (size - n0) / (n1 - n0)
    assert size == tokens[0]
    return times_s[0]


def is_below_all_mixtures(tokens: list[int], times_s: list[float], start: int, size: int) -> bool:
    """Whether no two other sizes from `start` on, mixed, compute as much in less time."""
    sizes = range(start, tokens[-1] + 1)
    time_s = at(tokens, times_s, size)
    for less in [n for n in sizes if n < size]:
        for more in [n for n in sizes if n > size]:
            share = (size - less) / (more - less)
            mixed_s = (1 - share) * at(tokens, times_s, less) + share * at(tokens, times_s, more)
            if mixed_s < time_s - 1e-9:
                return False
    return True


@given(gaps, st.data())
def test_the_best_size_is_a_corner_and_no_better_one_fits(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    tokens, times_s = curve(steps)
    start = data.draw(st.integers(tokens[0], tokens[-1]))
    stairs = Stairs(tokens, times_s)
    start_s = at(tokens, times_s, start)
    answers = [stairs.best_total(start, start_s, most) for most in range(start + 1, tokens[-1] + 1)]
    assert answers == sorted(answers), "more room, no smaller size"
    good = [n for n in range(start + 1, tokens[-1] + 1) if is_below_all_mixtures(tokens, times_s, start, n)]
    for most, answer in zip(range(start + 1, tokens[-1] + 1), answers, strict=True):
        assert start < answer <= most
        fitting = [n for n in good if n <= most]
        if fitting and answer != most:
            assert answer in good
            assert not [n for n in fitting if n > answer and n in tokens], "a larger corner fits"


@given(st.sampled_from(sorted(FITTED)), st.integers(0, 200), st.integers(0, 4000), st.integers(1, 4000))
def test_a_profile_never_gives_more_than_asked_and_never_less_for_more(
    name: str, num_decodes: int, context: int, num_tokens: int
) -> None:
    model = get_profile(name)
    shape = BatchShape(0, num_decodes, 500 * num_decodes)
    chunk = model.efficient_chunk(shape, context, num_tokens)
    assert 1 <= chunk <= num_tokens
    assert chunk <= model.efficient_chunk(shape, context, num_tokens + 1)
    assert model.efficient_chunk(shape, context, chunk) == chunk


def test_the_stairs_of_a_large_model_are_cut_at_their_edges() -> None:
    model = get_profile("h100-80gb/llama-3-70b/tp4")
    shape = BatchShape(0, 20, 30_000)
    assert model.efficient_chunk(shape, 0, 330) == 236, "256 tokens with the decodes"
    assert model.efficient_chunk(shape, 0, 500) == 492
    smooth = get_profile("a100-80gb/llama-3-8b/tp1")
    assert smooth.efficient_chunk(shape, 0, 330) == 330
