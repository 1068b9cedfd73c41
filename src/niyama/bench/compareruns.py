"""One run of a comparison, from an address to its row of figures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niyama.bench.carriers import make_carrier
from niyama.bench.client import Progress, Rules, run
from niyama.bench.contestants import Contestant
from niyama.bench.knee import MAX_LATE
from niyama.bench.measure import Measured, Spec, longest_slo_s, measure
from niyama.bench.planned import Lengths, make_plan
from niyama.bench.promises import measure_step_s
from niyama.bench.prompts import PromptMaker, Vocabulary, learn_vocabulary, make_prompts
from niyama.bench.records import write_records
from niyama.bench.saturation import Backlog, Saturation
from niyama.bench.scenarios import SEARCHED, Job, Traffic
from niyama.bench.score import client_figures, score
from niyama.bench.sender import open_session
from niyama.bench.target import Target, find_target
from niyama.pauses import no_full_collections
from niyama.qos import Importance

if TYPE_CHECKING:
    from aiohttp import ClientSession

IN_FLIGHT = 128
"""Requests in flight where the loop is closed."""
BACKLOG_IN_FLIGHT = 64
"""Batch requests in flight beside the interactive ones."""
NUM_LENGTHS = 1000
"""Requests whose lengths stand for the workload in a closed loop."""

_KEPT = (
    *("valid", "invalid_because", "requests", "errors", "wall_s", "late_share", "late_share_by_criterion"),
    *("late_share_by_part", "goodput_rps", "finished_rps", "throughput_tps", "prompt_tps"),
    *("ttft_s", "tbt_s", "ttlt_s", "client", "lengths", "relegated_share", "preemptions", "versions"),
)


@dataclass(frozen=True, slots=True)
class Loop:
    """A server that is ready to be loaded in a closed loop."""

    session: ClientSession
    target: Target
    vocabulary: Vocabulary
    lengths: Lengths


async def measure_basis(url: str, traffic: Traffic, wants_step: bool) -> dict[str, Any]:
    """Return what a stock server sustains, whether that counts, and the step time of the SLO rule if wanted.

    Raises:
        ClientError: a request failed.
        TargetError: the server cannot be measured.
    """
    async with open_session() as session:
        loop = await _loop(session, url, traffic.lengths)
        step_s = None
        if wants_step:
            step_s = await measure_step_s(session, loop.target, loop.vocabulary)
        backlog = _endless(loop, traffic, Job("saturation", 0.0))
        found = await _alone_in_flight(backlog, traffic.closed_s)
    return {
        **client_figures(found.flight, Rules()),
        "saturation_qps": found.qps,
        "saturation_tps": found.output_tps,
        "saturation_in_flight": found.num_in_flight,
        "saturation_seconds": traffic.closed_s,
        "step_s": step_s,
        "max_total": loop.lengths.max_total,
        "vllm_version": loop.target.vllm_version,
    }


async def run_job(
    url: str,
    contestant: Contestant,
    job: Job,
    traffic: Traffic,
    saturation_qps: float,
    *,
    records: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a job at a server and return its row.

    Args:
        url: The server.
        contestant: What it is.
        job: What to run.
        traffic: What arrives.
        saturation_qps: Load 1, requests per second.
        records: File for every request; None to keep none.
        progress: Hears of the run.

    Raises:
        ClientError: a request failed before the run.
        TargetError: the server cannot be measured.
    """
    qps = job.load * saturation_qps
    row: dict[str, Any] = {
        "policy": contestant.policy,
        "chunk": contestant.chunk,
        "scenario": job.scenario,
        "load": job.load,
        "qps": qps,
        "repeat": job.repeat,
        "seed": traffic.seed + job.repeat,
        "seconds": traffic.run_s(job.scenario),
    }
    if job.scenario == "alone":
        return {**row, **await _alone(url, contestant, job, traffic)}
    if job.scenario == "backlog":
        return {**row, **await _backlog(url, contestant, job, traffic, saturation_qps, progress)}
    spec = Spec(
        url=url,
        workload=traffic.workload(job, saturation_qps),
        qps=qps,
        seconds=traffic.run_s(job.scenario),
        carrier=contestant.carrier,
        lengths=traffic.lengths,
        settles_at=MAX_LATE if job.scenario in SEARCHED else None,
    )
    done = await measure(spec, progress=progress)
    if records is not None:
        records.parent.mkdir(parents=True, exist_ok=True)
        write_records(records, done.header, done.flight.records)
    return {**row, "settled_by": done.flight.settled_by, **figures(done.result), **_importance(done)}


def figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row keeps of the figures of a run."""
    kept = {name: result[name] for name in _KEPT if name in result}
    kept["errors"] = result["errors"]["count"]
    by_part = result["late_share_by_part"]
    for part in ("ttft", "tbt", "ttlt"):
        kept[f"{part}_late_share"] = by_part[part].get("all")
    return kept


def _importance(done: Measured) -> dict[str, Any]:
    shares = done.result["late_share_by_importance"]
    records = done.flight.records
    of_low = [r for r in records if r.importance is Importance.LOW]
    if not of_low:
        return {"late_share_important": done.result["late_share"].get("all"), "low_importance_share": 0.0}
    # Normal and high importance together, weighted by their numbers.
    counts = {name: sum(r.importance.name.lower() == name for r in records) for name in shares}
    important = {name: n for name, n in counts.items() if name != "low"}
    late = sum(shares[name] * n for name, n in important.items())
    return {
        "late_share_important": late / max(1, sum(important.values())),
        "low_importance_share": len(of_low) / len(records),
    }


async def _loop(session: ClientSession, url: str, lengths: Lengths) -> Loop:
    target = await find_target(session, url, model=None, endpoint="completions", api_key=None)
    vocabulary = await learn_vocabulary(session, target)
    totals = [n for n in (lengths.max_total, target.max_model_len) if n is not None]
    fitted = replace(lengths, min_prompt=vocabulary.min_tokens, max_total=min(totals, default=None))
    return Loop(session, target, vocabulary, fitted)


def _endless(
    loop: Loop,
    traffic: Traffic,
    job: Job,
    carrier: str = "none",
    mix: Mapping[str, float] | None = None,
) -> Backlog:
    """Return requests for a closed loop; takes time, so nothing may run beside it."""
    workload = traffic.workload(Job("steady", 1.0, job.repeat), 1.0)
    if mix is not None:
        workload = replace(workload, mix=mix)
    plan = make_plan(workload, 1.0, num_requests=NUM_LENGTHS, lengths=loop.lengths)
    maker = PromptMaker(loop.target, loop.vocabulary, seed=traffic.seed * 8 + 5)
    carry = make_carrier(carrier, traffic.book)
    return Backlog(loop.session, loop.target, plan, maker, carry, run_id=f"{job.key}-closed")


async def _alone_in_flight(backlog: Backlog, seconds: float) -> Saturation:
    with no_full_collections():
        return await backlog.work_off(num_in_flight=IN_FLIGHT, seconds=seconds)


async def _alone(url: str, contestant: Contestant, job: Job, traffic: Traffic) -> dict[str, Any]:
    """Run one batch class as fast as it goes: no pressure, so only throughput is judged."""
    async with open_session() as session:
        loop = await _loop(session, url, traffic.lengths)
        backlog = _endless(loop, traffic, job, contestant.carrier, traffic.mix("alone"))
        found = await _alone_in_flight(backlog, traffic.closed_s)
    closed = {
        "qps": found.qps,
        "throughput_tps": found.output_tps,
        "goodput_rps": found.qps,
        "finished_rps": found.qps,
    }
    none = dict.fromkeys(("ttft_late_share", "tbt_late_share", "ttlt_late_share", "late_share_important"))
    return {**closed, **none, **client_figures(found.flight, Rules()), "errors": 0, "late_share": {}}


async def _backlog(
    url: str,
    contestant: Contestant,
    job: Job,
    traffic: Traffic,
    saturation_qps: float,
    progress: Progress | None,
) -> dict[str, Any]:
    """Run the interactive classes in an open loop beside a closed loop of the batch class."""
    seconds = traffic.run_s("backlog")
    async with open_session() as session:
        loop = await _loop(session, url, traffic.lengths)
        workload = traffic.workload(job, saturation_qps)
        plan = make_plan(workload, job.load * saturation_qps, seconds=seconds, lengths=loop.lengths)
        maker = PromptMaker(loop.target, loop.vocabulary, seed=workload.seed * 8)
        prompts = make_prompts(maker, plan.requests)
        batch = _endless(loop, traffic, job, contestant.carrier, {traffic.batch: 1.0})
        rules = Rules().for_promises(longest_slo_s(workload))
        flight, closed = await asyncio.gather(
            run(
                session,
                loop.target,
                plan.requests,
                prompts,
                make_carrier(contestant.carrier, traffic.book),
                carrier=contestant.carrier,
                run_id=job.key,
                rules=rules,
                progress=progress,
            ),
            batch.work_off(num_in_flight=BACKLOG_IN_FLIGHT, seconds=seconds),
        )
    found = score(flight.records, traffic.book, "strict", flight.wall_s)
    found |= _both_valid(client_figures(flight, rules), client_figures(closed.flight, rules))
    return {
        **figures(found),
        "late_share_important": found["late_share"].get("all"),
        "backlog_tps": closed.output_tps,
        "throughput_tps": found["throughput_tps"] + closed.output_tps,
    }


def _both_valid(of_open: dict[str, Any], of_closed: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the client fared in the open loop; the run counts only if the closed one does, too."""
    reasons = of_open["invalid_because"]
    reasons += [f"in the closed loop: {reason}" for reason in of_closed["invalid_because"]]
    return {**of_open, "valid": not reasons, "invalid_because": reasons}
