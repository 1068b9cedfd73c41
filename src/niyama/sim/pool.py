"""Worker processes that end with whoever started them: on Ctrl-C, on an error, and when no longer needed."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import ParamSpec, TypeVar, cast

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Workers(ProcessPoolExecutor):
    """Processes that leave Ctrl-C to the one that started them, which then stops them."""

    def __init__(self, jobs: int, start_method: str | None = None) -> None:
        """Start up to `jobs` processes, by Python's own method if `start_method` is None."""
        context = None if start_method is None else multiprocessing.get_context(start_method)
        super().__init__(jobs, mp_context=context, initializer=_leave_signals)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Begin a call. Its process may be started here, and is deaf to Ctrl-C from its first instant."""
        if not hasattr(signal, "pthread_sigmask"):
            return super().submit(fn, *args, **kwargs)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """Drop all calls, those that run included, and end the processes; may be called twice."""
        # There is no public way before Python 3.14.
        processes = list((self._processes or {}).values())
        caretaker = cast("Thread | None", self._executor_manager_thread)
        # Told first, the thread that looks after the processes forgets the calls that were cancelled; in
        # Python 3.11 it dies of them if it sees a process end first. It must be over before Python exits.
        self.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        if caretaker is not None:
            caretaker.join()


@contextmanager
def worker_processes(jobs: int, *, start_method: str | None = None) -> Iterator[Workers]:
    """Lend `jobs` processes; on leaving by an exception, Ctrl-C too, no call is waited for."""
    workers = Workers(jobs, start_method)
    try:
        yield workers
    except BaseException:
        workers.stop()
        raise
    workers.shutdown(cancel_futures=True)


def _leave_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
