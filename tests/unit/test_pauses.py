from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from niyama import pauses
from niyama.pauses import DUE, LONGEST_S, NEVER, QuietCollector, no_full_collections


@pytest.fixture(autouse=True)
def threshold() -> Iterator[tuple[int, int, int]]:
    """Give the process its own thresholds back."""
    before = gc.get_threshold()
    gc.collect()
    yield before
    gc.set_threshold(*before)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "QUIET_S", 0.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1e6
        self.collected_at: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def collect(self) -> None:
        self.collected_at.append(self.now_s)
        gc.collect()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(clock: Clock) -> QuietCollector:
    return QuietCollector(clock.collect, clock)


def make_due() -> None:
    """Let as many middle collections pass as make a full one worth its while."""
    for _ in range(DUE + 1):
        gc.collect(1)


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0.001)


def test_no_full_collection_while_the_block_runs(threshold: tuple[int, int, int]) -> None:
    with no_full_collections():
        assert gc.get_threshold() == (*threshold[:2], NEVER)
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == threshold
    assert gc.get_freeze_count() == 0


def test_thresholds_come_back_after_an_error(threshold: tuple[int, int, int]) -> None:
    with pytest.raises(RuntimeError), no_full_collections():
        raise RuntimeError
    assert gc.get_threshold() == threshold


async def test_nothing_is_collected_while_a_request_is_open(clock: Clock, collector: QuietCollector) -> None:
    with collector.open_request():
        with collector.open_request():
            make_due()
        await settle()
        assert not clock.collected_at
    await settle()
    assert len(clock.collected_at) == 1


async def test_a_request_that_comes_at_once_is_not_held_up(clock: Clock, collector: QuietCollector) -> None:
    with collector.open_request():
        make_due()
    with collector.open_request():
        await settle()
        assert not clock.collected_at


async def test_little_garbage_is_not_worth_a_collection(clock: Clock, collector: QuietCollector) -> None:
    with collector.open_request():
        pass
    await settle()
    assert not clock.collected_at


async def test_a_process_that_is_never_quiet_collects_now_and_then(
    clock: Clock, collector: QuietCollector
) -> None:
    with collector.open_request():
        for _ in range(100):
            make_due()
            clock.now_s += LONGEST_S / 10
            with collector.open_request():
                pass
        assert 8 <= len(clock.collected_at) <= 10


async def test_thresholds_stay_until_the_first_request(threshold: tuple[int, int, int]) -> None:
    collector = QuietCollector()
    assert gc.get_threshold() == threshold
    with collector.open_request():
        assert gc.get_threshold() == (*threshold[:2], NEVER)


async def test_a_request_that_fails_counts_as_closed(clock: Clock, collector: QuietCollector) -> None:
    make_due()
    with pytest.raises(RuntimeError), collector.open_request():
        raise RuntimeError
    await settle()
    assert len(clock.collected_at) == 1
