"""Runs simulations over processes, each different one once, and knows what each figure cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Task(Hashable, Protocol[T_co]):
    """A simulation: pure, hashable, and small enough to be sent to a process."""

    def run(self) -> T_co:
        """Simulate; the result depends on the task alone."""
        ...


class Lab:
    """Results of tasks, for every figure that asks.

    Args:
        executor: Where tasks run; None for this process.
        progress: Hears of the number of tasks done and of those known so far.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        progress: Callable[[int, int], None] = lambda done, known: None,
    ) -> None:
        self._executor = executor
        self._progress = progress
        self._results: dict[Hashable, asyncio.Future[Any]] = {}
        self._cost_s: dict[Hashable, float] = {}
        self._asked: dict[str, list[Hashable]] = {}

    async def results(self, figure: str, tasks: Sequence[Task[T]]) -> list[T]:
        """Return the tasks' results in their order, for a figure."""
        self._asked.setdefault(figure, []).extend(tasks)
        return list(await asyncio.gather(*(self._result(task) for task in tasks)))

    def cpu_s(self, figures: Sequence[str]) -> dict[str, float]:
        """Return the processor time of each figure; what several use counts for the first."""
        counted: set[Hashable] = set()
        costs = {}
        for figure in figures:
            tasks = set(self._asked.get(figure, ())) - counted
            counted |= tasks
            costs[figure] = sum(self._cost_s.get(task, 0.0) for task in tasks)
        return costs

    async def _result(self, task: Task[T]) -> T:
        if task not in self._results:
            self._results[task] = asyncio.ensure_future(self._run(task))
        result: T = await self._results[task]
        return result

    async def _run(self, task: Task[T]) -> T:
        if self._executor is None:
            await asyncio.sleep(0)
            result, cost_s = timed(task)
        else:
            loop = asyncio.get_running_loop()
            result, cost_s = await loop.run_in_executor(self._executor, timed, task)
        self._cost_s[task] = cost_s
        self._progress(len(self._cost_s), len(self._results))
        return result


def timed(task: Task[T]) -> tuple[T, float]:
    """Run a task in this process; return its result and its processor time, seconds."""
    began_at = time.process_time()
    return task.run(), time.process_time() - began_at
