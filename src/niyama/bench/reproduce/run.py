"""All figures at once: their simulations share the processes, and each is drawn as it is done."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from niyama.bench.reproduce import results
from niyama.bench.reproduce.cases import Trace
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.lab import Lab
from niyama.bench.reproduce.page import Page
from niyama.bench.reproduce.registry import Figure
from niyama.bench.reproduce.scale import Scale, note
from niyama.sim.pool import worker_processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to reproduce.

    Attributes:
        figures: In the order of the results.
        out: Folder for everything that is written; exists.
        traces: By name.
        scale: How long and how fine.
        jobs: Processes, >= 1; they change nothing but the time.
        seed: Of every workload.
    """

    figures: Sequence[Figure]
    out: Path
    traces: Mapping[str, Trace]
    scale: Scale
    jobs: int = 1
    seed: int = 0


def reproduce(
    order: Order, progress: Callable[[int, int], None] = lambda done, known: None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Compute, draw and write; return the results, and the processor time of each figure, seconds.

    Args:
        order: What to do.
        progress: Hears of simulations done, and of those known so far.

    Raises:
        OSError: something cannot be written.
        ValueError: a trace cannot be read.
        ImportError: matplotlib is not installed.
        BrokenProcessPool: a process was killed.
    """
    try:
        with _workers(order.jobs) as executor:
            lab = Lab(executor, progress)
            parts = asyncio.run(_all(order, lab))
    except BaseExceptionGroup as group:
        raise _first(group) from None
    head = {
        "scale": order.scale.name,
        "seed": order.seed,
        "traces": {trace.title: trace.origin for trace in order.traces.values()},
    }
    results.write(order.out, head, list(zip(order.figures, parts, strict=True)))
    named = {figure.name: part for figure, part in zip(order.figures, parts, strict=True)}
    return {**head, "figures": named}, lab.cpu_s([figure.name for figure in order.figures])


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group that a task group made of figures' errors."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def _workers(jobs: int) -> Iterator[Executor | None]:
    """Yield processes for tasks, None for this one; whatever interrupts the block ends them at once.

    Without processes an interrupt ends the simulation itself, which asyncio would wait for.
    """
    if jobs == 1:
        with _interrupted_at_once():
            yield None
        return
    with worker_processes(jobs, start_method="spawn") as workers:
        yield workers


def _interrupt(*signalled: object) -> None:
    """Not Python's own handler: asyncio puts another in that one's place, and waits."""
    raise KeyboardInterrupt


@contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """Let Ctrl-C raise where the program is; only the main thread can."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _all(order: Order, lab: Lab) -> list[dict[str, Any]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_one(order, lab, figure)) for figure in order.figures]
    return [task.result() for task in tasks]


async def _one(order: Order, lab: Lab, figure: Figure) -> dict[str, Any]:
    data = await figure.compute(Desk(figure.name, lab, order.scale, order.traces, order.seed))
    caption = _caption(order, figure)
    figure.draw(data, Page(order.out / f"{figure.name}.png", figure.title, caption))
    return results.record(figure, caption, data)


def _caption(order: Order, figure: Figure) -> str:
    """Return where the lengths come from and how long the runs were."""
    used = [order.traces[name] for name in figure.traces]
    origins = "; ".join(f"{trace.title}: {trace.origin}" for trace in used)
    return f"Lengths: {origins}. {note(order.scale, figure.lengths(order.scale))}, seed {order.seed}."
