"""Under overload the steps keep their length: nobody's answer hurries them (decision 13)."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

from niyama.latency.profiles import LinearCost, LinearProfile
from niyama.qos import QosBook, QosClass, Slo
from niyama.scheduling.registry import make_policy
from niyama.sim.live import ReplicaLimits
from niyama.sim.replica import Replica
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Shares, Workload
from niyama.workload.presets import load_preset
from niyama.workload.tracefile import TraceRow

TBT_S = 0.112
COST = LinearCost(0.01, 0.0, 11e-5, 3e-4, 6e-7, 0.0)
BOOK = QosBook(
    "interactive",
    {
        "interactive": QosClass("interactive", Slo(ttft_s=1.8, tbt_s=TBT_S)),
        "batch": QosClass("batch", Slo(ttlt_s=20.0)),
        "background": QosClass("background", Slo(ttlt_s=60.0)),
    },
)
LENGTHS = Shares(
    [
        (TraceRow(None, 1 + cell.num_prefill_tokens // 4, 1 + cell.num_decode_tokens // 4), cell.num_requests)
        for cell in load_preset("azure-conv")
    ]
)
WORKLOAD = Workload(name="azure-conv", lengths=LENGTHS, book=BOOK, arrivals=poisson)
SECONDS, QPS = 160, 22.0


def test_steps_keep_their_length_under_overload() -> None:
    model = LinearProfile("cpu", COST, COST, 512, 0.0)
    replica = Replica(make_policy("niyama", model), model, ReplicaLimits(), lambda served: None)
    for arrival in WORKLOAD.requests(QPS, round(QPS * SECONDS)):
        while replica.live and replica.now_s < arrival.request.arrived_at:
            replica.step()
        replica.arrive(arrival)
    steps = [after - before for before, after in pairwise(replica.ended_at) if before > SECONDS / 2]
    assert fmean(steps) > TBT_S / 2
