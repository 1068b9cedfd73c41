"""The tokens of a step leave the engine in the order of their readers' TBT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.engine.rig import Rig
from tests.engine.workload import asks

pytestmark = pytest.mark.engine


def _orders(rig: Rig, scheduler: Any) -> Iterator[list[str]]:
    """Yield the classes of the requests of each step's outputs, in their order."""
    inner = scheduler.update_from_output
    orders: list[list[str]] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        classes = {i: view.qos_class for i, view in scheduler.niyama._views.items()}
        outputs = inner(*args, **kwargs)
        orders.extend([classes[one.request_id] for one in ready.outputs] for ready in outputs.values())
        return outputs

    scheduler.update_from_output = watched
    while rig.is_busy:
        rig.step()
        yield from orders
        orders.clear()


def test_who_has_a_tbt_is_first_and_the_others_keep_their_order(rig: Rig) -> None:
    classes = ("batch", "batch", "interactive", "batch", "interactive")
    some = asks(5, prompts=(20, 30), outputs=(5, 30), classes=classes)
    for number, pipelined in enumerate((False, True)):
        scheduler = rig.use(policy="niyama", pipelined=pipelined)
        for ask in some:
            rig.submit(ask)
        orders = list(_orders(rig, scheduler))
        mixed = [order for order in orders if len(set(order)) > 1]
        assert len(mixed) >= 4, number
        assert all(order == sorted(order, reverse=True) for order in mixed)
        assert any(set(order) == {"batch"} for order in orders), "those without go on in peace"


def test_outputs_of_an_unknown_kind_are_left_as_they_are(rig: Rig) -> None:
    scheduler = rig.use(policy="niyama")
    (ask,) = asks(1, prompts=(20, 30), outputs=(20, 30))
    rig.submit(ask)
    rig.step()
    scheduler.niyama.hand_over({0: object()})
    rig.drain()
    assert len(rig.tokens()[ask.name]) == ask.max_tokens
