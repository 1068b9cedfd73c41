"""Whatever the others ask for, who asks for no more than its share has no standing (decision 10)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from niyama.qos import Slo
from niyama.scheduling.policy import Request
from niyama.scheduling.shares import HEADROOM, LEAST_KEPT, WITHIN, Shares

TENANTS = st.lists(
    st.tuples(
        st.sampled_from([0.5, 1.0, 2.0, 7.0]),  # weight
        st.lists(st.integers(1, 5000), min_size=1, max_size=6),  # prompts
        st.floats(0.0, 1.0 - LEAST_KEPT),  # what of them is set aside
    ),
    min_size=2,
    max_size=6,
)


def ask(number: int, weight: float) -> Request:
    return Request("r", 0.0, Slo(), 1, 1, tenant=f"t{number}", tenant_weight=weight)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(tenants=TENANTS)
def test_only_who_asks_for_more_than_its_share_has_a_standing(
    tenants: list[tuple[float, list[int], float]],
) -> None:
    shares = Shares()
    for number, (weight, prompts, aside) in enumerate(tenants):
        for num_tokens in prompts:
            shares.arrive(ask(number, weight), num_tokens, 0.0)
            shares.set_aside(ask(number, weight), round(aside * num_tokens), 0.0)
    shares.follow(0.0)
    kept = sum(n - round(aside * n) for _, prompts, aside in tenants for n in prompts)
    share = HEADROOM * kept / sum(weight for weight, _, _ in tenants)
    marked = []
    for number, (weight, prompts, _) in enumerate(tenants):
        standings = [shares.standing(ask(number, weight), num_tokens) for num_tokens in sorted(prompts)]
        asked = sum(prompts) / weight
        if asked < share * 0.999:
            assert set(standings) == {0}
        if standings[-1]:
            marked.append(asked)
            assert min(standings) >= WITHIN
            assert standings == sorted(standings)
        else:
            marked.append(-asked)
    # Nobody without a standing asks for more, for its weight, than somebody with one.
    assert max((-m for m in marked if m < 0), default=0.0) <= min((m for m in marked if m > 0), default=1e9)
    assert any(m > 0 for m in marked)
