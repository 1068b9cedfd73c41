"""The tokens of a step leave the engine in the order of their readers' TBT."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.engine.rig import Rig
from tests.engine.workload import asks

from niyama.qos import Slo
from niyama.scheduling.policy import Request

pytestmark = pytest.mark.engine


def _classes_per_step(rig: Rig, scheduler: Any) -> Iterator[list[str]]:
    """Run to the end; yield the classes of those that got a token, not their first, in order."""
    host, inner = scheduler.niyama, scheduler.update_from_output
    seen: set[str] = set()
    orders: list[list[str]] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        classes = {request_id: view.qos_class for request_id, view in host._views.items()}
        outputs = inner(*args, **kwargs)
        for ready in outputs.values():
            ids = [one.request_id for one in ready.outputs]
            orders.append([classes[request_id] for request_id in ids if request_id in seen])
            seen.update(ids)
        return outputs

    scheduler.update_from_output = watched
    while rig.is_busy:
        rig.step()
        yield from orders
        orders.clear()


@pytest.mark.parametrize("pipelined", [False, True], ids=["one by one", "pipelined"])
def test_who_has_a_tbt_comes_before_who_has_none(rig: Rig, pipelined: bool) -> None:
    scheduler = rig.use(policy="niyama", pipelined=pipelined)
    classes = ("batch", "batch", "batch", "interactive", "interactive")
    some = asks(5, prompts=(20, 30), outputs=(20, 40), classes=classes)
    without, read_along = some[:3], some[3:]
    for ask in without:
        rig.submit(ask)
    while any(ask.name not in rig.outputs for ask in without):
        rig.step()
    for ask in read_along:
        rig.submit(ask)
    mixed = [order for order in _classes_per_step(rig, scheduler) if len(set(order)) > 1]
    assert len(mixed) >= 4
    assert all(order == sorted(order, reverse=True) for order in mixed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["decode 50", "decode none", "new 50"], ["decode 50", "new 50", "decode none"]),
        (["decode none", "held 50", "new 50"], ["new 50", "decode none", "held 50"]),
        (["decode none", "held 50", "held 20", "new 50"], ["new 50", "decode none", "held 50", "held 20"]),
        (
            ["decode 20", "decode 50", "decode 90", "new 50", "held none"],
            ["decode 20", "decode 50", "new 50", "decode 90", "held none"],
        ),
        (["decode 50", "new none"],) * 2,
        (["new 50", "decode none"],) * 2,
    ],
)
def test_held_prefills_do_not_hide_whom_to_pass(rig: Rig, before: list[str], after: list[str]) -> None:
    scheduler = rig.use(policy="niyama")
    running = [SimpleNamespace(request_id=name) for name in before]
    views = {
        name: Request(name, 0.0, Slo(ttft_s=1.0, tbt_s=tbt_s), 10, 10)
        for name in before
        for tbt_s in [None if name.endswith("none") else float(name.split()[1])]
    }
    own, scheduler.running = scheduler.running, running
    try:
        new = next(request for request in running if request.request_id.startswith("new"))
        scheduler.niyama._levers.begin_decode(new, views)
        assert [request.request_id for request in scheduler.running] == after
    finally:
        scheduler.running = own
