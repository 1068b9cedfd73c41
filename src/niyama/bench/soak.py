"""Endurance: a long mixed load with clients that leave, and an account of everything at the end.

The server is a real one with very little KV cache, and checks the laws at every step; a broken law counts
as a failure of the policy, so it shows as a step that took the fall-back path.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from niyama import demo_model
from niyama.bench.soakclient import Crowd
from niyama.bench.soakreport import accounts, leftovers, unaccounted
from niyama.bench.soakserver import OPTIONS, SoakServer, SoakServerError, soak_server
from niyama.bench.soakshots import BOOK, FIRST_WORD, Shot, is_burst, shots
from niyama.bench.soakwatch import Watch, until_lost, watching

LOAD = 0.6
"""Share of what the server sustains that comes outside the bursts, when the rate is not given."""

NUM_BACKLOG = 60
"""Requests of the backlog by which that is measured; the first such backlog only warms up."""

COUNTERS = {
    "relegated": "niyama_relegated_total",
    "restored": "niyama_restored_total",
    "held_steps": "niyama_held_prefill_steps_total",
    "requests": "niyama_requests_total",
    "fallback_steps": "niyama_fallback_steps_total",
}
"""What is counted, and the metric that counts it."""

SETTLE_LIMIT_S = 60.0
"""When all clients have gone, the engine is empty and the metrics are fed within this time."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """What to do.

    Attributes:
        minutes: How long clients come, > 0.
        model: What to serve; None for the demo model.
        qps: Clients per second outside the bursts, > 0; None to measure.
        seed: Of everything that is drawn.
        log: File for what the server prints.
    """

    minutes: float
    model: str | None
    qps: float | None
    seed: int
    log: Path


class Seen(NamedTuple):
    """The server at one moment.

    Attributes:
        state: Its state page.
        counts: Its counters since it started, by what is counted; empty if they could not be had.
    """

    state: Mapping[str, Any]
    counts: Mapping[str, float]


def soak(task: Soak, progress: Progress) -> dict[str, Any]:
    """Start a server, load it, and return what was found; `problems` is empty if nothing is wrong.

    Raises:
        SoakServerError: the server does not start, or stops answering before the clients come. Later that
            is a problem of the result, which has all that was seen until then.
    """
    with TemporaryDirectory(prefix="niyama-soak-") as folder:
        qos = Path(folder) / "qos.yaml"
        qos.write_text(BOOK, encoding="utf-8")
        progress("starting the server")
        with soak_server(task.model, qos, task.log) as server:
            return _soak(task, server, progress)


def _soak(task: Soak, server: SoakServer, progress: Progress) -> dict[str, Any]:
    model = task.model or demo_model.NAME
    progress("measuring what the server sustains")
    saturation_qps = _saturation_qps(server, task.seed, model)
    settled = _settle(server)
    qps = task.qps or LOAD * saturation_qps
    sentinel = _sentinel(server, model)
    before, seconds = _look(server, server.state()), 60.0 * task.minutes
    crowd, watch = Crowd(server.url), Watch(server, period_s=min(5.0, max(0.5, seconds / 600)))

    def show(at_s: float) -> None:
        burst = ", burst" if is_burst(at_s) else ""
        num_gone = sum(crowd.ends.values())
        so_far = f"{at_s / 60:.1f} of {task.minutes:g} min{burst}"
        progress(f"{so_far}, {crowd.num_open} clients in, {num_gone:,} gone")

    with watching(watch, show):
        asyncio.run(until_lost(crowd.run(shots(task.seed, qps, seconds, model)), watch))
    after, wrong = _afterwards(server, model, sentinel, watch)
    result = _figures(server, crowd, before, after or Seen(watch.state or before.state, {}), watch)
    problems = [f"before the soak: {problem}" for problem in leftovers(settled)]
    problems += wrong + _problems(server, crowd, result, watch)
    if after is not None:
        problems += _accounts_wrong(crowd, result, after)
    return {
        "minutes": task.minutes,
        "seed": task.seed,
        "model": model,
        "qps": round(qps, 3),
        "saturation_qps": round(saturation_qps, 3),
        "server_options": list(OPTIONS),
        **result,
        "problems": problems,
    }


def _look(server: SoakServer, state: Mapping[str, Any]) -> Seen:
    """Return the server's counters beside its state. Raises SoakServerError if they cannot be had."""
    return Seen(state, {name: server.metric(metric) for name, metric in COUNTERS.items()})


def _afterwards(server: SoakServer, model: str, sentinel: str, watch: Watch) -> tuple[Seen | None, list[str]]:
    """Return the server when all clients are gone, None if it cannot be seen, and what is wrong with it."""
    after: Seen | None = None
    lost = watch.lost
    if lost is None:
        try:
            after = _look(server, _settle(server))
            if _sentinel(server, model) == sentinel:
                return after, []
            return after, ["the same greedy request is answered otherwise after the soak than before it"]
        except SoakServerError as error:
            lost = f"{server.ending() or error}; when the clients had gone"
    return after, [f"the server was lost: {lost}"]


def _figures(server: SoakServer, crowd: Crowd, before: Seen, after: Seen, watch: Watch) -> dict[str, Any]:
    """Return what happened between two looks; None for what the second one could not tell."""
    was, is_now = before.state, after.state
    realised = {cause: count - was["realised"].get(cause, 0) for cause, count in is_now["realised"].items()}
    counted = {name: round(count - before.counts[name]) for name, count in after.counts.items()}
    return {
        "vllm": is_now["vllm_version"],
        "policy": is_now["policy"],
        "steps": is_now["step"] - was["step"],
        "clients": dict(crowd.ends),
        "most_open": crowd.most_open,
        "output_tokens": crowd.num_tokens,
        "classes": accounts(crowd, was["classes"], is_now["classes"]),
        "preempted": realised.get("preempted", 0),
        **{name: counted.get(name) for name in ("relegated", "restored", "held_steps")},
        "plan_differences": realised,
        "fallback_steps": is_now["fallback_steps"],
        "laws_broken": len(server.log_lines("LawBroken:")),
        "state_polls": watch.num_polls,
        "memory": [memory.to_json() for memory in watch.memory.values()],
        "failures": crowd.failures,
    }


def _problems(server: SoakServer, crowd: Crowd, result: Mapping[str, Any], watch: Watch) -> list[str]:
    """Return what is wrong, a line each, whether or not the server lived to the end."""
    problems = list(watch.problems)
    if crowd.ends["failed"]:
        problems.append(f"{crowd.ends['failed']} clients were not served as they should: {crowd.failures[0]}")
    if result["fallback_steps"]:
        problems.append(f"{result['fallback_steps']} steps took the fall-back path")
    if result["laws_broken"]:
        problems.append(f"laws broken: {server.log_lines('LawBroken:')[0][:300]}")
    for memory in watch.memory.values():
        if not memory.is_flat():
            problems.append(f"memory of the {memory.role} grew by {memory.growth_mib():.0f} MiB")
    return problems + [f"the server's log: {line[:200]}" for line in server.log_lines("Traceback")[:1]]


def _accounts_wrong(crowd: Crowd, result: Mapping[str, Any], after: Seen) -> list[str]:
    """Return what does not add up when all clients are gone, a line each."""
    state, counts = after
    problems = unaccounted(result["classes"]) + leftovers(state)
    counted = sum(c[key] for c in state["classes"].values() for key in ("met", "missed", "aborted"))
    if counts["requests"] != counted:
        problems.append(f"{COUNTERS['requests']}: {counts['requests']:.0f}, on the state page {counted}")
    if counts["fallback_steps"] != state["fallback_steps"]:
        problems.append(f"{COUNTERS['fallback_steps']} differs from the state page")
    return problems + _untested(crowd, result)


def _untested(crowd: Crowd, result: Mapping[str, Any]) -> list[str]:
    """Return what should have happened in such a run and did not: it tested less than it says."""
    happened = {
        "preemptions": result["preempted"],
        "aborts": sum(count["aborted"] for count in result["classes"].values()),
        "refusals": crowd.ends["refused"],
        "answers": crowd.ends["answered"],
        "processes watched": len(result["memory"]),
    }
    return [f"there were no {what}" for what, count in happened.items() if not count]


def _saturation_qps(server: SoakServer, seed: int, model: str) -> float:
    """Return the rate at which the server works off a backlog, requests per second.

    Raises:
        SoakServerError: a request fails.
    """
    rate = 0.0
    for turn in range(2):
        every = shots(seed + 1 + turn, 1.0, float("inf"), model)
        backlog: list[Shot] = list(islice((s for s in every if s.kind == "served"), NUM_BACKLOG))
        for shot in backlog:
            shot.at_s = 0.0
        crowd, start = Crowd(server.url), time.monotonic()
        asyncio.run(crowd.run(backlog))
        if crowd.failures:
            raise SoakServerError(f"a request fails: {crowd.failures[0]}")
        rate = len(backlog) / (time.monotonic() - start)
    return rate


def _settle(server: SoakServer) -> dict[str, Any]:
    """Return the state once the engine is empty and the metrics say the same, or when time is up."""
    end = time.monotonic() + SETTLE_LIMIT_S
    while True:
        state = server.state()
        counted = sum(c[key] for c in state["classes"].values() for key in ("met", "missed", "aborted"))
        is_settled = not leftovers(state) and server.metric("niyama_requests_total") == counted
        if is_settled or time.monotonic() > end:
            return state
        time.sleep(0.25)


def _sentinel(server: SoakServer, model: str) -> str:
    """Return the answer to a greedy request that is always the same, alone in the engine."""
    prompt = [FIRST_WORD + 7 * number % 500 for number in range(100)]
    answer = server.complete(model=model, prompt=prompt, max_tokens=48, temperature=0, ignore_eos=True)
    text: str = answer["choices"][0]["text"]
    return text
