"""Endurance: a long mixed load with clients that leave, and an account of everything at the end.

The server is a real one with very little KV cache, and checks the laws at every step; a broken law counts
as a failure of the policy, so it shows as a step that took the fall-back path.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from niyama import demo_model
from niyama.bench.soakclient import Crowd
from niyama.bench.soakreport import Memory, accounts, broken_state, leftovers, unaccounted
from niyama.bench.soakserver import OPTIONS, SoakServer, SoakServerError, resident_mib, soak_server
from niyama.bench.soakshots import BOOK, FIRST_WORD, Shot, is_burst, shots

LOAD = 0.6
"""Share of what the server sustains that comes outside the bursts, when the rate is not given."""

NUM_BACKLOG = 60
"""Requests of the backlog by which that is measured; the first such backlog only warms up."""

POLL_S = 5.0
"""Time between two looks at the state page."""

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


@dataclass(slots=True)
class Watch:
    """Looks at the server while it serves: memory often, the state now and then."""

    server: SoakServer
    period_s: float
    memory: dict[int, Memory] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    num_polls: int = 0

    def sample(self, at_s: float) -> None:
        """Note the memory of every process."""
        for pid, role in self.server.processes().items():
            mib = resident_mib(pid)
            if mib is not None:
                self.memory.setdefault(pid, Memory(role, pid)).samples.append((at_s, mib))

    def poll(self) -> None:
        """Look at the state page; a bad one is noted, and so is none."""
        self.num_polls += 1
        try:
            found = broken_state(self.server.state())
        except (SoakServerError, KeyError, ValueError) as error:
            found = [str(error)]
        self.problems += [f"state: {problem}" for problem in found if len(self.problems) < 5]

    def run(self, start: float, is_over: threading.Event, show: Callable[[float], None]) -> None:
        """Look until told to stop; `start` is an instant of the monotonic clock."""
        next_poll = start
        while not is_over.wait(self.period_s):
            now = time.monotonic()
            self.sample(now - start)
            show(now - start)
            if now >= next_poll:
                self.poll()
                next_poll = now + POLL_S


def soak(task: Soak, progress: Progress) -> dict[str, Any]:
    """Start a server, load it, and return what was found; `problems` is empty if nothing is wrong.

    Raises:
        SoakServerError: the server does not start or stops answering.
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
    before, seconds = server.state(), 60.0 * task.minutes
    crowd, watch = Crowd(server.url), Watch(server, period_s=min(5.0, max(0.5, seconds / 600)))

    def show(at_s: float) -> None:
        burst = ", burst" if is_burst(at_s) else ""
        num_gone = sum(crowd.ends.values())
        so_far = f"{at_s / 60:.1f} of {task.minutes:g} min{burst}"
        progress(f"{so_far}, {crowd.num_open} clients in, {num_gone:,} gone")

    with _watching(watch, show):
        asyncio.run(crowd.run(shots(task.seed, qps, seconds, model)))
    after = _settle(server)
    result = _figures(server, crowd, before, after, watch)
    problems = [f"before the soak: {problem}" for problem in leftovers(settled)]
    problems += _problems(server, crowd, result, after, watch)
    if _sentinel(server, model) != sentinel:
        problems.append("the same greedy request is answered otherwise after the soak than before it")
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


def _figures(
    server: SoakServer, crowd: Crowd, before: Mapping[str, Any], after: Mapping[str, Any], watch: Watch
) -> dict[str, Any]:
    realised = {cause: count - before["realised"].get(cause, 0) for cause, count in after["realised"].items()}
    return {
        "vllm": after["vllm_version"],
        "policy": after["policy"],
        "steps": after["step"] - before["step"],
        "clients": dict(crowd.ends),
        "most_open": crowd.most_open,
        "output_tokens": crowd.num_tokens,
        "classes": accounts(crowd, before["classes"], after["classes"]),
        "preempted": realised.get("preempted", 0),
        "relegated": round(server.metric("niyama_relegated_total")),
        "restored": round(server.metric("niyama_restored_total")),
        "held_steps": round(server.metric("niyama_held_prefill_steps_total")),
        "plan_differences": realised,
        "fallback_steps": after["fallback_steps"],
        "laws_broken": len(server.log_lines("LawBroken:")),
        "state_polls": watch.num_polls,
        "memory": [memory.to_json() for memory in watch.memory.values()],
        "failures": crowd.failures,
    }


def _problems(
    server: SoakServer, crowd: Crowd, result: Mapping[str, Any], after: Mapping[str, Any], watch: Watch
) -> list[str]:
    """Return what is wrong, a line each."""
    problems = unaccounted(result["classes"]) + leftovers(after) + watch.problems
    if crowd.ends["failed"]:
        problems.append(f"{crowd.ends['failed']} clients were not served as they should: {crowd.failures[0]}")
    if result["fallback_steps"]:
        problems.append(f"{result['fallback_steps']} steps took the fall-back path")
    if result["laws_broken"]:
        problems.append(f"laws broken: {server.log_lines('LawBroken:')[0][:300]}")
    counted = sum(c[key] for c in after["classes"].values() for key in ("met", "missed", "aborted"))
    on_page = server.metric("niyama_requests_total")
    if on_page != counted:
        problems.append(f"niyama_requests_total: {on_page:.0f}, on the state page {counted}")
    if server.metric("niyama_fallback_steps_total") != after["fallback_steps"]:
        problems.append("niyama_fallback_steps_total differs from the state page")
    for memory in watch.memory.values():
        if not memory.is_flat():
            problems.append(f"memory of the {memory.role} grew by {memory.growth_mib():.0f} MiB")
    problems += [f"the server's log: {line[:200]}" for line in server.log_lines("Traceback")[:1]]
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


@contextmanager
def _watching(watch: Watch, show: Callable[[float], None]) -> Iterator[None]:
    """Watch the server in a thread until the block ends."""
    is_over = threading.Event()
    thread = threading.Thread(target=watch.run, args=(time.monotonic(), is_over, show), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        with suppress(RuntimeError):
            thread.join(60.0)
