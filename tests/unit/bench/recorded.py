"""Recorded runs whose truth is known: the simulator plays the server, with a clock of our own."""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from niyama.bench.recordedrun import RecordedRun, join
from niyama.bench.records import Header, Record, write_records
from niyama.latency import OnlineModel
from niyama.latency.calibrated import StepTime
from niyama.latency.profilefile import Calibration
from niyama.qos import Importance, QosBook, QosClass, Slo
from niyama.scheduling.policy import Request
from niyama.scheduling.recording import Call, Recorded
from niyama.scheduling.registry import make_policy
from niyama.settings import Settings
from niyama.sim.live import ReplicaLimits
from niyama.sim.replica import Replica
from niyama.sim.verdicts import Served
from niyama.workload.generate import Arrival

TRUTH = StepTime(
    fixed=4e-3,
    mixed=5e-4,
    prefill=(1.5e-4, 1.1e-4, 1e-4, 9e-5, 9e-5, 9e-5),
    decode=(4e-4, 3e-4, 2.5e-4, 2.5e-4),
    decode_context=3e-7,
    prefill_context=5e-7,
    attention=4e-8,
)
BOOK = QosBook(
    "chat",
    {
        "chat": QosClass("chat", Slo(ttft_s=0.6, tbt_s=0.04)),
        "batch": QosClass("batch", Slo(ttlt_s=20.0), Importance.LOW),
    },
)
LIMITS = ReplicaLimits(num_kv_tokens=60_000, max_num_seqs=64, max_num_batched_tokens=1024)
RUN_ID = "nb01"


def arrivals(num_requests: int, qps: float, seed: int = 0) -> list[Arrival]:
    """Return requests with lengths that a small model on a CPU can serve."""
    draw = random.Random(seed)
    at, found = 0.0, []
    for number in range(num_requests):
        at += draw.expovariate(qps)
        qos_class = BOOK.classes[draw.choice(list(BOOK.classes))]
        request = Request(
            request_id=f"cmpl-{RUN_ID}-r{number}-0-{draw.getrandbits(32):08x}",
            arrived_at=at,
            slo=qos_class.slo,
            num_prompt_tokens=draw.randint(8, 700),
            max_tokens=100,
            qos_class=qos_class.name,
            importance=qos_class.importance,
        )
        found.append(Arrival(request, draw.randint(1, 60)))
    return found


def start(policy: str = "niyama", limits: ReplicaLimits = LIMITS) -> Call:
    """Return a log's first call."""
    engine = {
        "num_kv_tokens": limits.num_kv_tokens,
        "block_tokens": limits.block_tokens,
        "max_num_seqs": limits.max_num_seqs,
        "max_num_batched_tokens": limits.max_num_batched_tokens,
        "is_async": False,
    }
    form = {"call": "start", "format": "niyama-decisions", "version": 1, "wall_at": 5e8, "monotonic_at": 0.0}
    return {**form, "settings": Settings(policy=policy, book=BOOK).to_mapping(), "engine": engine}


def header(seed: int = 0) -> Header:
    return Header(
        run_id=RUN_ID,
        target={},
        versions={},
        seed=seed,
        book=BOOK,
        workload={},
        started_at=5e8,
        started_monotonic=0.0,
    )


def record(
    requests: Sequence[Arrival],
    policy: str = "niyama",
    truth: StepTime = TRUTH,
    limits: ReplicaLimits = LIMITS,
) -> RecordedRun:
    """Serve requests in the simulator, whose clients see every token at its step's end."""
    calls: list[Call] = [start(policy, limits)]
    served: list[Served] = []
    recorded = Recorded(make_policy(policy, OnlineModel()), calls.append)
    engine = Replica(recorded, Calibration("truth", truth).profile(), limits, served.append)
    for arrival in requests:
        while engine.live and engine.now_s < arrival.request.arrived_at:
            engine.step()
        engine.arrive(arrival)
    while engine.live:
        engine.step()
    # As through a file: what JSON does not keep would be lost here.
    calls = [json.loads(json.dumps(call)) for call in calls]
    stalled = [set(call["stalled"]) for call in calls if call["call"] == "begin"]
    return join("simulated", header(), [_record(one, engine.ended_at, stalled) for one in served], calls)


def save(run: RecordedRun, folder: Path) -> Path:
    """Write a run as the client and the server do."""
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "records.jsonl", run.header, run.records)
    text = "".join(json.dumps(call) + "\n" for call in run.calls)
    (folder / "decisions.jsonl").write_text(text)
    return folder


def _record(served: Served, ended_at: Sequence[float], stalled: Sequence[set[str]]) -> Record:
    request = served.request
    assert served.num_preempted == 0
    first = bisect_left(ended_at, served.first_at)
    steps = zip(ended_at[first:], stalled[first:], strict=True)
    ran = (at for at, sitting in steps if request.request_id not in sitting)
    token_at = list(islice(ran, served.num_tokens))
    assert token_at[-1] == served.finished_at
    return Record(
        id=request.request_id.split("-")[2],
        qos_class=request.qos_class,
        num_prompt_tokens=request.num_prompt_tokens,
        num_output_tokens=served.num_tokens,
        due_at=request.arrived_at,
        sent_at=request.arrived_at,
        token_at=token_at,
        finished_at=served.finished_at,
        status=200,
    )
