"""The state page: at every step each live request is in exactly one place."""

from __future__ import annotations

import pytest
from tests.engine.policies import adversary
from tests.engine.rig import Rig
from tests.engine.workload import TIGHT_BOOK, asks

from niyama.bench.soakreport import LIVE
from niyama.scheduling.registry import POLICIES

pytestmark = pytest.mark.engine

BOOK = {**TIGHT_BOOK, "classes": {**TIGHT_BOOK["classes"], "anytime": {"ttlt": "1h"}}}
"""Some promises that no machine keeps, and one that every machine keeps: it is never relegated."""


@pytest.mark.parametrize("pipelined", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("num_blocks", [None, 24], ids=["roomy", "tight"])
@pytest.mark.parametrize(("policy", "sets_aside"), [("niyama", "relegated"), ("adversary", "held")])
def test_every_request_is_counted_once_at_every_step(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    sets_aside: str,
    num_blocks: int | None,
    pipelined: bool,
) -> None:
    monkeypatch.setitem(POLICIES, "adversary", adversary(3))
    scheduler = rig.use(policy=policy, qos=BOOK, num_blocks=num_blocks, pipelined=pipelined)
    workload = asks(30, prompts=(20, 700), outputs=(20, 40), classes=tuple(BOOK["classes"]))
    most = dict.fromkeys(LIVE, 0)

    def look(step: int) -> None:
        counts = scheduler("state")["classes"]
        live = dict.fromkeys(counts, 0)
        for request in scheduler.requests.values():
            live[request.sampling_params.extra_args["niyama_class"]] += 1
        for name, count in counts.items():
            assert min(count[place] for place in LIVE) >= 0, (step, name, count)
            assert sum(count[place] for place in LIVE) == live[name], (step, name, count)
        for place in LIVE:
            most[place] = max(most[place], *(count[place] for count in counts.values()))

    rig.run(workload, at_step=look)
    assert all(most[place] for place in ("queued", "prefilling", "decoding", sets_aside)), most
