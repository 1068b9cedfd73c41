"""Requests as hypothesis draws them, and how often the laws are tried."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from niyama.qos import Importance, Slo
from niyama.scheduling.policy import Request
from niyama.scheduling.registry import POLICIES

NAMES = sorted(POLICIES)
TTFT_S = (None, 0.25, 1.0, 4.0)
TBT_S = (None, 1 / 32, 1 / 8)
TTLT_S = (None, 1.0, 8.0, 64.0)
MAX_PROMPT, MAX_OUTPUT = 700, 40

settings.register_profile("laws", deadline=None, derandomize=True, max_examples=40)
LAWS = settings.get_profile("laws")

SLOS = st.builds(Slo, st.sampled_from(TTFT_S), st.sampled_from(TBT_S), st.sampled_from(TTLT_S))


@st.composite
def requests(draw: st.DrawFn, request_id: str = "r", arrived_at: float = 0.0) -> Request:
    num_prompt = draw(st.integers(1, MAX_PROMPT))
    return Request(
        request_id=request_id,
        arrived_at=arrived_at,
        slo=draw(SLOS),
        num_prompt_tokens=num_prompt,
        max_tokens=MAX_OUTPUT,
        qos_class=draw(st.sampled_from(["a", "b"])),
        tenant=draw(st.sampled_from(["", "t"])),
        importance=draw(st.sampled_from(Importance)),
        priority=draw(st.integers(-2, 2)),
        num_cached_tokens=draw(st.sampled_from([0, 0, num_prompt // 2, num_prompt])),
        expected_output_tokens=draw(st.sampled_from([None, 5, 100])),
    )
