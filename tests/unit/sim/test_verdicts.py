from __future__ import annotations

from array import array

import pytest

from niyama.qos import Slo
from niyama.scheduling.policy import Request
from niyama.sim.verdicts import Criterion, Served, worst_lag_s


def served(slo: Slo, token_at: list[float], arrived_at: float = 10.0) -> Served:
    request = Request("a", arrived_at, slo, 5, 100)
    worst_s = 0.0 if slo.tbt_s is None else worst_lag_s(array("d", token_at), slo.tbt_s, 0)
    return Served(request, token_at[0], token_at[-1], len(token_at), worst_s, False, 0)


CHAT = Slo(ttft_s=2.0, tbt_s=0.5)


@pytest.mark.parametrize(
    ("slo", "token_at", "late"),
    [
        (CHAT, [12.0, 12.5, 13.0], ()),
        (CHAT, [12.1, 12.2, 12.3], ("strict", "paper", "artifact")),
        # The first token was early: a reader who began at once waits, one who expected it at 12 does not.
        (CHAT, [11.0, 11.2, 12.4], ("strict",)),
        (CHAT, [11.0, 11.2, 13.1], ("strict", "paper")),
        # Late once, in time again at the end.
        (CHAT, [12.0, 12.6, 12.7], ("strict", "paper")),
        (Slo(ttlt_s=3.0), [12.9, 13.0], ()),
        (Slo(ttlt_s=3.0), [11.0, 13.1], ("strict", "paper", "artifact")),
        (Slo(tbt_s=0.5), [50.0, 50.6], ("strict", "paper")),
        (Slo(ttft_s=2.0), [12.0, 99.0], ()),
        (Slo(), [99.0, 999.0], ()),
    ],
)
def test_request_is_late_by_exactly_these_criteria(
    slo: Slo, token_at: list[float], late: tuple[Criterion, ...]
) -> None:
    done = served(slo, token_at)
    criteria: tuple[Criterion, ...] = ("strict", "paper", "artifact")
    assert tuple(c for c in criteria if done.is_late(c)) == late


def test_lag_of_a_later_stretch_counts_its_tokens_from_their_number() -> None:
    assert worst_lag_s(array("d", [20.0, 20.4]), 0.5, 10) == 15.0
