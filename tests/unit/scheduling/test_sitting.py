"""Who sits a step out for an urgent prefill: those that have time, if it pays and nobody is crowded out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.property.hosts import Host, linear_model

from niyama.qos import Slo
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import Launch, Plan, Request, StepOutcome
from niyama.scheduling.sitting import MIN_GAIN, sit_out

ROOMY = Limits(token_budget=4096, free_seqs=64, free_kv_tokens=1_000_000)
READER = Slo(ttft_s=60.0, tbt_s=0.5)
RELAXED = Slo(ttft_s=60.0, tbt_s=5.0)
BATCH = Slo(ttlt_s=10_000.0)


def decoding(**slos: tuple[Slo, int]) -> Host:
    """Return an engine on which requests of these promises and numbers decode; a decode takes 10 ms."""
    host = Host(NiyamaPolicy(linear_model(fixed_s=1 / 8, token_s=1 / 512, decode_s=0.01)))
    for name, (slo, count) in slos.items():
        for number in range(count):
            host.arrive(Request(f"{name}{number}", host.now_s, slo, 16, 900), 800)
    while host.policy.ledger.num_decoding < sum(count for _, count in slos.values()):
        host.step()
    return host


def plan(host: Host, limits: Limits = ROOMY) -> Plan:
    return host.policy.plan(host.now_s, limits)


def urge(host: Host, slo: Slo | None = None) -> None:
    """Let a request come whose first token is due hardly later than it can be had."""
    host.arrive(Request("urgent", host.now_s, slo or Slo(ttft_s=2.9, tbt_s=0.5), 1000, 900), 1)


def test_who_has_time_sits_out_while_a_prefill_is_urgent() -> None:
    host = decoding(reader=(READER, 1), batch=(BATCH, 12))
    calm = plan(host)
    assert not calm.stalled
    urge(host)
    pressed = plan(host)
    assert pressed.stalled == sorted(f"batch{n}" for n in range(12))
    assert pressed.shape.num_decode_tokens == 1
    assert pressed.chunks[0].request_id == "urgent"
    before = {i: host.policy.pacer.due_at(i, host.policy.ledger.num_launches) for i in pressed.stalled}
    host.step()
    after = {i: host.policy.pacer.due_at(i, host.policy.ledger.num_launches) for i in pressed.stalled}
    assert after == pytest.approx(before), "the token that did not come is still due when it was"
    host.run()
    assert not host.policy.ledger.jobs, "everybody finishes"


@pytest.mark.parametrize(
    ("slos", "limits", "urgent"),
    [
        ({"reader": (READER, 12)}, ROOMY, None),
        ({"batch": (BATCH, 12)}, ROOMY, None),
        ({"reader": (READER, 1), "batch": (BATCH, 1)}, ROOMY, None),
        ({"reader": (READER, 1), "batch": (BATCH, 12)}, Limits(4096, 64, 100), None),
        ({"reader": (READER, 1), "batch": (BATCH, 12)}, Limits(4096, 11, 1_000_000), None),
        ({"reader": (READER, 1), "batch": (BATCH, 12)}, ROOMY, Slo(ttlt_s=3.4)),
    ],
    ids=["all paced alike", "nobody binds", "no gain", "no memory", "no seats", "nobody reads along"],
)
def test_nobody_sits_out_without_need(
    slos: dict[str, tuple[Slo, int]], limits: Limits, urgent: Slo | None
) -> None:
    host = decoding(**slos)
    urge(host, urgent)
    assert not plan(host, limits).stalled


def test_a_relaxed_reader_sits_out_for_a_tighter_one() -> None:
    host = decoding(reader=(READER, 1), relaxed=(RELAXED, 12))
    urge(host)
    assert plan(host).stalled == sorted(f"relaxed{n}" for n in range(12))


@given(
    st.lists(st.sampled_from([READER, RELAXED, BATCH]), min_size=2, max_size=10),
    st.floats(0.0, 2.0),
    st.integers(0, 400),
    st.integers(0, 12),
)
def test_sitting_is_lawful_whatever_runs(
    slos: list[Slo], time_s: float, free_kv_tokens: int, free_seqs: int
) -> None:
    host = decoding(**{f"c{n}": (slo, 1) for n, slo in enumerate(slos)})
    policy = host.policy
    decodes, limits = policy.ledger.decode_shape(), Limits(4096, free_seqs, free_kv_tokens)
    due = dict(policy.pacer.all_due(policy.ledger.num_launches))
    slack_s = policy.slack_s(host.now_s)
    until_at = host.now_s + max(0.0, slack_s) + 0.1
    found = sit_out(policy.ledger, due.items(), decodes, 0.5, until_at, time_s, limits, policy.model)
    assert found.request_ids == sorted(found.request_ids)
    assert 0.0 < found.share <= 1.0
    assert len(found.request_ids) <= free_seqs
    for request_id in found.request_ids:
        assert due[request_id] > until_at
    if not found.request_ids:
        assert found.decodes == decodes
        return
    assert found.decodes.num_decode_tokens == decodes.num_decode_tokens - len(found.request_ids)
    more = policy.model.largest_chunk(found.decodes, 0, time_s, 4096)
    assert more > (1 + MIN_GAIN) * policy.model.largest_chunk(decodes, 0, time_s, 4096)


def test_who_is_paced_like_the_tightest_runs_however_far_ahead_it_is() -> None:
    host = decoding(ahead=(READER, 12))
    for _ in range(12):
        host.step()  # without prefill a step takes half the TBT, so that all of them earn slack
    host.arrive(Request("fresh", host.now_s, READER, 16, 900), 800)
    host.step()
    urge(host)
    pressed = plan(host)
    due = dict(host.policy.pacer.all_due(host.policy.ledger.num_launches))
    assert min(due[f"ahead{n}"] for n in range(12)) > due["fresh"] + 1.0, "they would have the time"
    assert pressed.chunks
    assert not pressed.stalled


def test_nobody_sits_out_again_for_a_prefill_that_did_not_run() -> None:
    host = decoding(batch=(BATCH, 12))
    for _ in range(12):
        host.step()  # they earn time enough for the steps to come
    host.arrive(Request("reader", host.now_s, READER, 16, 900), 800)
    host.step()
    urge(host, Slo(ttft_s=4.0, tbt_s=0.5))
    policy = host.policy
    first = plan(host)
    assert first.stalled
    shape = policy.ledger.decode_shape()._replace(num_decode_tokens=1)

    def next_plan(number: int, stalled: Sequence[str]) -> Plan:
        """Let a step without prefill take the reader's whole TBT, so that its slack stays what it is."""
        started_at = host.now_s + 0.5 * (number - 1)
        launch = Launch(started_at, [], shape, stalled)
        policy.begin(launch)
        policy.observe(StepOutcome(launch, started_at, started_at + 0.5, is_clean=False))
        return policy.plan(started_at + 0.5, ROOMY)

    second = next_plan(1, first.stalled)
    assert second.slack_s == pytest.approx(first.slack_s)
    assert not second.stalled
    assert next_plan(2, ()).stalled, "later it is tried again"
