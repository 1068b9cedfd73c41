from __future__ import annotations

import pytest

from niyama.latency.leastsquares import Sums, solve_nonnegative


def test_solve_nonnegative_interior_solution_is_exact() -> None:
    matrix = [[4.0, 1.0], [1.0, 3.0]]
    assert solve_nonnegative(matrix, [6.0, 7.0], [0.0, 0.0], sweeps=60) == pytest.approx([1.0, 2.0])


def test_solve_nonnegative_negative_coordinate_is_held_at_zero_and_the_rest_refitted() -> None:
    matrix = [[4.0, 1.0], [1.0, 3.0]]
    assert solve_nonnegative(matrix, [-2.0, 6.0], [5.0, 5.0], sweeps=60) == pytest.approx([0.0, 2.0])


def test_solve_nonnegative_feature_never_seen_keeps_its_start() -> None:
    matrix = [[2.0, 0.0], [0.0, 0.0]]
    assert solve_nonnegative(matrix, [2.0, 0.0], [0.0, 9.0], sweeps=3) == pytest.approx([1.0, 9.0])


def test_sums_within_the_window_are_plain_sums() -> None:
    sums = Sums(2, window=10)
    sums.add([1.0, 2.0], 3.0)
    sums.add([2.0, 1.0], 1.0)
    assert sums.products == [5.0, 4.0, 5.0]
    assert sums.targets == [5.0, 7.0]


def test_sums_beyond_the_window_follow_the_new_rows() -> None:
    sums = Sums(1, window=20)
    for target in [1.0] * 200 + [3.0] * 200:
        sums.add([1.0], target)
    assert sums.targets[0] / sums.products[0] == pytest.approx(3.0, rel=1e-3)
    assert sums.products[0] == pytest.approx(20.0, rel=0.05)


def test_sums_of_many_rows_stay_what_they_were_scaled_back_or_not() -> None:
    sums = Sums(3, window=4)
    for number in range(400):
        sums.add([1.0, 0.0, 2.0] if number % 2 else [1.0, 0.0, 0.0], 1.0)
    assert sums.targets == pytest.approx([4.0, 0.0, 2 * 4.0 / 1.75], rel=1e-3)
    assert sums.products == pytest.approx([4.0, 0.0, 2 * 4.0 / 1.75, 0.0, 0.0, 4 * 4.0 / 1.75], rel=1e-3)
