from __future__ import annotations

import pickle
import random
from itertools import islice, pairwise
from statistics import fmean, pstdev

import pytest

from niyama.workload.arrivals import Periodic, parse_arrivals


def take(text: str, qps: float, count: int, instants: list[float] | None = None) -> list[float]:
    return list(islice(parse_arrivals(text, instants or [])(random.Random(1), qps), count))


@pytest.mark.parametrize("text", ["poisson", "gamma:3", "gamma:0.2", "square:1:3:50", "diurnal:0.8:100"])
def test_process_over_a_long_time_has_the_asked_rate(text: str) -> None:
    instants = take(text, 4.0, 20_000)
    assert instants == sorted(instants)
    assert len(instants) / instants[-1] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize(("text", "cv"), [("poisson", 1.0), ("gamma:3", 3.0), ("gamma:0.5", 0.5)])
def test_gaps_have_the_coefficient_of_variation(text: str, cv: float) -> None:
    gaps = [b - a for a, b in pairwise(take(text, 2.0, 20_000))]
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(cv, rel=0.1)


@pytest.mark.parametrize("text", ["poisson", "gamma:2", "recorded"])
def test_twice_the_rate_is_the_same_arrivals_in_half_the_time(text: str) -> None:
    recorded = [0.0, 1.0, 4.0]
    slow, fast = (take(text, qps, 50, recorded) for qps in (1.0, 2.0))
    assert [at / 2 for at in slow] == pytest.approx(fast)


def test_square_wave_has_its_rate_in_each_half() -> None:
    instants = take("square:1:3:100", 2.0, 20_000)
    low = sum(at % 200 < 100 for at in instants)
    assert low / len(instants) == pytest.approx(0.25, abs=0.01)


def test_periodic_process_knows_its_period_and_keeps_its_rate_over_it() -> None:
    for text, period_s in (("square:1:3:1000", 2000.0), ("diurnal:0.8:2000", 2000.0)):
        process = parse_arrivals(text, [])
        assert isinstance(process, Periodic)
        assert process.period_s == pytest.approx(period_s)
        assert hash(process) == hash(pickle.loads(pickle.dumps(process)))
        assert sum(at < period_s for at in take(text, 5.0, 12_000)) == pytest.approx(10_000, rel=0.05)
    assert not isinstance(parse_arrivals("gamma:2", []), Periodic)


def test_recorded_arrivals_used_up_are_repeated() -> None:
    # Three instants span 4 s with two gaps; a third gap of the mean length closes the cycle: 6 s.
    assert take("recorded", 0.5, 7, [10.0, 11.0, 14.0]) == pytest.approx([0, 1, 4, 6, 7, 10, 12])


@pytest.mark.parametrize("text", ["", "poison", "gamma", "gamma:0", "gamma:x", "square:3:2:9", "square:0:0:9",
                                  "diurnal:1.5:9", "diurnal:0.5:0", "poisson:1", "gamma:nan"])  # fmt: skip
def test_unknown_process_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"--arrivals: .* allowed: poisson"):
        parse_arrivals(text, [])


def test_recorded_process_without_instants_is_refused() -> None:
    with pytest.raises(ValueError, match="no recorded arrivals"):
        parse_arrivals("recorded", [])
