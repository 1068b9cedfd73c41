from __future__ import annotations

from niyama.scheduling.pacing import MIN_HEAP, Pacer


def test_paces_that_nobody_has_any_more_are_forgotten() -> None:
    """Every client may bring a TBT of its own, and not every policy asks who is late."""
    pacer = Pacer()
    for number in range(3000):
        pacer.join(f"r{number}", 0.05 + number * 1e-6, float(number), number)
        if number >= 10:
            pacer.leave(f"r{number - 10}")
    assert len(pacer._heaps) < 2 * MIN_HEAP
    assert pacer.tightest(0) < float("inf")
