"""Every check notices a breach; that they hold is what the property tests show."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.property.hosts import Host, linear_model

from niyama.qos import Slo
from niyama.scheduling.laws import LawBroken, check_kv, check_plan, check_state, check_times
from niyama.scheduling.ledger import Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Chunk, Plan, Request

FIELDS = [
    "budget",
    "chunks",
    "shape",
    "predicted_s",
    "spares",
    "held",
    "stalled",
    "relegated",
    "restored",
    "slack_s",
    "is_late",
]
LIMITS = Limits(token_budget=1024, free_seqs=8, free_kv_tokens=10_000)


def busy() -> tuple[Host, NiyamaPolicy]:
    """An engine with one decode, one started prefill that is held and two requests waiting."""
    policy = NiyamaPolicy(linear_model())
    host = Host(policy)
    host.arrive(Request("decode", 0.0, Slo(ttft_s=1.0, tbt_s=0.25), 10, 99), 99)
    host.arrive(Request("held", 0.0, Slo(ttlt_s=900.0), 5000, 99), 1)
    host.step()
    for name in ("w1", "w2"):
        host.arrive(Request(name, host.now_s, Slo(ttft_s=4.0), 1000, 99), 1)
    return host, policy


def changed(plan: Plan, **fields: Any) -> Plan:
    """Return the plan with other values in some fields."""
    return Plan(**{name: getattr(plan, name) for name in FIELDS} | fields)


def empty(plan: Plan) -> Plan:
    return changed(plan, chunks=[], spares=[], held=["held"], shape=BatchShape(0, 1, 10))


def overspent(plan: Plan) -> Plan:
    """Return a plan whose prefill makes the decode late, and that says so."""
    shape = BatchShape(0, 1, plan.shape.decode_context).with_chunk(1000, 0)
    predicted_s = linear_model().predict_s(shape)
    assert predicted_s > plan.slack_s
    return changed(
        plan,
        budget=1001,
        chunks=[Chunk("w1", 1000)],
        spares=[],
        held=["held"],
        shape=shape,
        predicted_s=predicted_s,
        is_late=True,
    )


BREACHES: dict[str, tuple[str, Callable[[Plan], Plan]]] = {
    "unknown": ("L1", lambda p: changed(p, chunks=[Chunk("nobody", 5)])),
    "decode as prefill": ("L1", lambda p: changed(p, spares=["decode"])),
    "twice": ("L1", lambda p: changed(p, chunks=[*p.chunks, p.chunks[0]])),
    "run and held": ("L1", lambda p: changed(p, held=["held", p.chunks[0].request_id])),
    "run and spare": ("L1", lambda p: changed(p, spares=[p.chunks[0].request_id])),
    "started forgotten": ("L1", lambda p: changed(p, held=[])),
    "held before its start": ("L1", lambda p: changed(p, held=["held", "w2"], spares=[])),
    "stalled prefill": ("L1", lambda p: changed(p, stalled=["w2"])),
    "relegated in name only": ("L1", lambda p: changed(p, relegated=["w2"])),
    "over budget": ("L2", lambda p: changed(p, budget=p.budget - 1)),
    "over the engine": ("L2", lambda p: changed(p, budget=LIMITS.token_budget + 1)),
    "more than remains": ("L3", lambda p: changed(p, chunks=[Chunk("w1", 1001)])),
    "nothing": ("L3", lambda p: changed(p, chunks=[Chunk("w1", 0)])),
    "another shape": ("L3", lambda p: changed(p, shape=p.shape._replace(num_decode_tokens=2))),
    "late in silence": ("L7", lambda p: changed(p, slack_s=0.0)),
    "late for a prefill": ("L7", overspent),
    "sits out for nothing": (
        "L7",
        lambda p: changed(
            empty(p),
            stalled=["decode"],
            shape=BatchShape(0, 0, 0),
            predicted_s=linear_model().predict_s(BatchShape(0, 0, 0)),
        ),
    ),
    "wrong prediction": ("L7", lambda p: changed(p, predicted_s=p.predicted_s / 2)),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_check_plan_notices(breach: str) -> None:
    host, policy = busy()
    plan = policy.plan(host.now_s, LIMITS)
    check_plan(policy, host.now_s, LIMITS, plan)
    law, alter = BREACHES[breach]
    with pytest.raises(LawBroken, match=f"^{law}: "):
        check_plan(policy, host.now_s, LIMITS, alter(plan))


def test_check_plan_notices_an_empty_step_while_prefills_could_run() -> None:
    policy = NiyamaPolicy(linear_model())
    policy.arrive(Request("w", 0.0, Slo(ttft_s=9.0), 100, 9), 0.0)
    shape = BatchShape(0, 0)
    idle = Plan(budget=0, chunks=[], shape=shape, predicted_s=policy.model.predict_s(shape))
    with pytest.raises(LawBroken, match=r"^L9: an empty step, 1 wait"):
        check_plan(policy, 0.0, LIMITS, idle)
    check_plan(policy, 0.0, Limits(512, 0, 10_000), idle)


def test_check_plan_notices_an_empty_step_that_holds() -> None:
    host, policy = busy()
    host.abort("decode")
    shape = BatchShape(0, 0)
    idle = Plan(0, [], shape, policy.model.predict_s(shape), held=["held"])
    with pytest.raises(LawBroken, match=r"^L9: an empty step holds \['held'\]"):
        check_plan(policy, host.now_s, LIMITS, idle)


def _lose(policy: NiyamaPolicy) -> None:
    policy.backlog.discard("w1")


def _double(policy: NiyamaPolicy) -> None:
    policy.set_aside.put("w1", (0.0, 0.0), 1.0, 1.0)


def _pace(policy: NiyamaPolicy) -> None:
    policy.pacer.join("w1", 1.0, 1.0, 0)


def _phase(policy: NiyamaPolicy) -> None:
    policy.ledger.jobs["w1"].phase = Phase.PREFILLING


def _due(policy: NiyamaPolicy) -> None:
    policy.ledger.jobs["w1"].due_at += 1.0


def _flag(policy: NiyamaPolicy) -> None:
    policy.ledger.jobs["w1"].relegated = True


def _sum(policy: NiyamaPolicy) -> None:
    policy.backlog.item("w1").work_s += 1.0


@pytest.mark.parametrize("damage", [_lose, _double, _pace, _phase, _due, _flag, _sum])
def test_check_state_notices(damage: Callable[[NiyamaPolicy], None]) -> None:
    _, policy = busy()
    check_state(policy)
    damage(policy)
    with pytest.raises(LawBroken, match=r"^L1: "):
        check_state(policy)


def test_check_kv_and_times_notice() -> None:
    check_kv([3, 4], 5, 12)
    check_times(0.0, 1.0, 1.0, 2.0)
    for allocated, free in (([3, 4], 6), ([3, -4], 13), ([13], -1)):
        with pytest.raises(LawBroken, match=r"^L4: "):
            check_kv(allocated, free, 12)
    with pytest.raises(LawBroken, match=r"^L5: "):
        check_times(0.0, 2.0, 1.0)


def test_laws_page_numbers_every_law_that_the_code_cites() -> None:
    root = Path(__file__).parents[3]
    numbered = re.findall(r"^## (L\d+) ", (root / "docs" / "laws.md").read_text(), re.MULTILINE)
    assert numbered == [f"L{n}" for n in range(1, 13)]
    cited: set[str] = set()
    for folder in ("src/niyama", "tests/property", "tests/unit/scheduling"):
        for path in sorted((root / folder).rglob("*.py")):
            cited |= set(re.findall(r"\bL\d{1,2}\b", path.read_text()))
    assert set(numbered) >= {law for law in cited if law != "L0"}
