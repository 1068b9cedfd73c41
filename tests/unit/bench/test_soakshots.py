from __future__ import annotations

import json
from collections import Counter

import pytest

from niyama.bench import soakshots
from niyama.bench.soakshots import BOOK, CLASSES, KIND_WEIGHTS, MAX_TOKENS_IN_ALL, Shot, is_burst, shots
from niyama.qosfile import parse_book


def every(seed: int = 0, qps: float = 20.0, seconds: float = 300.0) -> list[Shot]:
    return list(shots(seed, qps, seconds, "demo"))


def test_same_seed_gives_the_same_clients_and_another_one_others() -> None:
    assert every() == every()
    assert [shot.body for shot in every()][:20] != [shot.body for shot in every(seed=1)][:20]


def test_rate_is_three_times_as_high_in_bursts() -> None:
    found = Counter(is_burst(shot.at_s) for shot in every(seconds=1200.0))
    num_quiet_s, num_burst_s = 1000.0, 200.0
    assert found[False] / num_quiet_s == pytest.approx(20.0, rel=0.05)
    assert found[True] / num_burst_s == pytest.approx(60.0, rel=0.05)


def test_clients_come_in_order_and_in_time() -> None:
    instants = [shot.at_s for shot in every()]
    assert instants == sorted(instants)
    assert instants[0] > 0
    assert instants[-1] < 300.0


def test_every_kind_has_its_share() -> None:
    found = every(seconds=900.0)
    kinds = Counter(shot.kind for shot in found)
    for kind, share in KIND_WEIGHTS.items():
        assert kinds[kind] / len(found) == pytest.approx(share, rel=0.2)


def test_book_has_the_classes_that_are_asked_for() -> None:
    assert tuple(parse_book(BOOK).classes) == CLASSES
    asking = [shot for shot in every() if shot.kind != "refused"]
    assert {shot.qos_class for shot in asking} == set(CLASSES)


def test_requests_that_can_be_served_fit_and_say_how_long_they_are() -> None:
    for shot in every():
        if shot.kind == "refused":
            assert shot.num_sequences == 0
            assert 200 not in shot.statuses
            continue
        body = json.loads(shot.body)
        assert shot.num_output_tokens == body["n"] * body["max_tokens"]
        assert body["ignore_eos"]
        assert shot.is_streamed == body.get("stream", False)
        if shot.path == soakshots.COMPLETIONS:
            assert len(body["prompt"]) + body["max_tokens"] <= MAX_TOKENS_IN_ALL


def test_prefixes_are_shared_by_some() -> None:
    prompts = [json.loads(s.body).get("prompt", []) for s in every() if s.kind == "served"]
    heads = Counter(tuple(words[:64]) for words in prompts if len(words) > 300)
    shared = [count for count in heads.values() if count > 5]
    assert len(shared) == 4
