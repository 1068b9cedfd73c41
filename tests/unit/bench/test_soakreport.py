from __future__ import annotations

import random
from typing import Any

import pytest

from niyama.bench.soakclient import Crowd
from niyama.bench.soakreport import Memory, accounts, broken_state, describe, leftovers, unaccounted


def memory(mib: list[float]) -> Memory:
    return Memory("engine core", 1, [(10.0 * number, value) for number, value in enumerate(mib)])


def state(**counts: int) -> dict[str, Any]:
    live = dict.fromkeys(("queued", "prefilling", "decoding", "held", "relegated"), 0)
    return {
        "num_running": 0,
        "num_waiting": 0,
        "kv_usage": 0.0,
        "classes": {"chat": {**live, "met": 0, "missed": 0, "aborted": 0, **counts}},
    }


def count(
    complete: int, reading: int, waiting: int, finished: int, aborted: int
) -> dict[str, dict[str, int]]:
    keys = ("complete", "left_reading", "left_waiting", "finished", "aborted")
    return {"chat": dict(zip(keys, (complete, reading, waiting, finished, aborted), strict=True))}


@pytest.mark.parametrize(
    ("figures", "is_right"),
    [
        ((10, 2, 3, 10, 2), True),  # none of those that left waiting ever began
        ((10, 2, 3, 12, 3), True),  # two ended before the engine heard that their clients had gone
        ((10, 2, 3, 9, 5), False),  # one that a client read to its end did not finish
        ((10, 2, 3, 10, 1), False),  # one is lost
        ((10, 2, 3, 10, 6), False),  # one was counted twice
        ((10, 0, 0, 11, 0), False),  # one finished for nobody
        ((0, 0, 0, 0, 0), True),
    ],
)
def test_sequences_that_do_not_add_up_are_named(figures: tuple[int, ...], is_right: bool) -> None:
    problems = unaccounted(count(*figures))
    assert (problems == []) is is_right
    assert all(problem.startswith("class chat: ") for problem in problems)


def test_accounts_count_from_the_start_of_the_soak() -> None:
    crowd = Crowd("http://nowhere")
    crowd.complete["chat"] += 5
    crowd.left_waiting["chat"] += 1
    before, after = state(met=100, missed=7)["classes"], state(met=104, missed=8, aborted=1)["classes"]
    assert accounts(crowd, before, after) == count(5, 0, 1, 5, 1)


def test_idle_engine_has_nothing_left() -> None:
    assert leftovers(state()) == []
    assert "chat held" in leftovers(state(held=1))[0]
    assert "kv_usage" in leftovers({**state(), "kv_usage": 0.1})[0]
    assert "num_waiting" in leftovers({**state(), "num_waiting": 1})[0]


def test_impossible_states_are_named() -> None:
    assert broken_state(state(queued=3)) == []
    assert broken_state(state(prefilling=-1)) == ["chat prefilling: -1"]
    assert broken_state({**state(), "kv_usage": 1.5}) == ["kv_usage: 1.5"]


def test_leak_is_not_flat_and_has_its_slope() -> None:
    leaking = memory([500 + number for number in range(100)])
    assert not leaking.is_flat()
    assert leaking.slope_mib_per_h() == pytest.approx(360.0)
    assert leaking.growth_mib() == pytest.approx(50.0, abs=1.5)


def test_noise_and_warm_up_are_flat() -> None:
    draw = random.Random(1)
    filling = [500 + 10.0 * number for number in range(25)]
    noisy = memory(filling + [750 + draw.uniform(-20, 20) for _ in range(75)])
    assert noisy.is_flat()
    assert abs(noisy.growth_mib()) < 10


def test_late_jump_is_not_flat() -> None:
    assert not memory([500.0] * 60 + [600.0] * 40).is_flat()


def test_description_says_what_is_wrong() -> None:
    figures = {
        "minutes": 5,
        "qps": 3.0,
        "saturation_qps": 5.0,
        "vllm": "0.32.0",
        "seed": 1,
        "clients": {"answered": 5, "left_reading": 1},
        "most_open": 4,
        "steps": 100,
        "output_tokens": 1000,
        "preempted": 3,
        "relegated": 4,
        "fallback_steps": 0,
        "laws_broken": 0,
        "classes": count(5, 1, 0, 5, 1),
        "memory": [memory([500.0] * 50).to_json()],
    }
    assert describe({**figures, "problems": []}).endswith("\nNothing is wrong.")
    text = describe({**figures, "problems": ["one is lost", "memory grew"]})
    assert text.endswith("\nWRONG: one is lost\nWRONG: memory grew")
    assert "5 answered, 1 left reading" in text
