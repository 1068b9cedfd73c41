"""A watch over the server of a soak while it serves: its memory, its state page, and whether it lives."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from niyama.bench.soakreport import Memory, broken_state
from niyama.bench.soakserver import SoakServer, SoakServerError, resident_mib

POLL_S = 5.0
"""Time between two looks at the state page."""

LOST_AFTER_S = 30.0
"""A server whose state page cannot be had for so long is lost."""

LOOK_S = 0.5
"""Time between two looks whether the server is lost, for those who wait for something else."""


@dataclass(slots=True)
class Watch:
    """Looks at the server while it serves: memory often, the state now and then.

    Attributes:
        server: Whom it looks at.
        period_s: Time between two looks at the memory, seconds.
        memory: Of every process so far, by pid.
        state: The last state page that could be had; None before the first.
        problems: What was wrong with a state page, the first ones.
        num_polls: Looks at the state page.
        lost: Why the server is given up; None while it is there.
    """

    server: SoakServer
    period_s: float
    memory: dict[int, Memory] = field(default_factory=dict)
    state: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
    num_polls: int = 0
    lost: str | None = None

    def sample(self, at_s: float) -> None:
        """Note the memory of every process."""
        for pid, role in self.server.processes().items():
            mib = resident_mib(pid)
            if mib is not None:
                self.memory.setdefault(pid, Memory(role, pid)).samples.append((at_s, mib))

    def poll(self) -> bool:
        """Look at the state page; a bad one is noted, and so is none. Return whether there was one."""
        self.num_polls += 1
        try:
            state = self.server.state()
            found = broken_state(state)
        except SoakServerError as error:
            self._note(str(error))
            return False
        except (KeyError, TypeError) as error:
            self._note(f"not a state: {error!r}")
            return False
        self.state = state
        for problem in found:
            self._note(problem)
        return True

    def run(self, start: float, is_over: threading.Event, show: Callable[[float], None]) -> None:
        """Look until told to stop or the server is lost; `start` is an instant of the monotonic clock."""
        next_poll = answered_at = start
        while not is_over.wait(self.period_s):
            now = time.monotonic()
            lost = self.server.ending()
            if lost is None and now >= next_poll:
                next_poll = now + POLL_S
                is_there, now = self.poll(), time.monotonic()
                if is_there:
                    answered_at = now
                elif now - answered_at >= LOST_AFTER_S:
                    lost = f"no state page for {now - answered_at:.0f} s"
            if lost is not None:
                self.lost = f"{lost}; {(now - start) / 60:.1f} min into the soak"
                return
            self.sample(now - start)
            show(now - start)

    def _note(self, problem: str) -> None:
        if len(self.problems) < 5:
            self.problems.append(f"state: {problem}")


@contextmanager
def watching(watch: Watch, show: Callable[[float], None]) -> Iterator[None]:
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


async def until_lost(work: Coroutine[Any, Any, None], watch: Watch) -> None:
    """Do some work to its end, or break it off when the server is lost."""
    task = asyncio.ensure_future(work)
    try:
        while watch.lost is None:
            done, _ = await asyncio.wait([task], timeout=LOOK_S)
            if done:
                break
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
