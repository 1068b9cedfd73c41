from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from niyama.sim.pool import Workers, worker_processes

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_calls_are_served_and_the_processes_end(start_method: str) -> None:
    with worker_processes(2, start_method=start_method) as workers:
        pid = workers.submit(os.getpid).result()
        assert list(workers.map(abs, [-3, 4, -5])) == [3, 4, 5]
        assert pid != os.getpid()
    assert not is_there(pid)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_waited_for_when_an_exception_leaves(error: type[BaseException]) -> None:
    pids: list[int] = []
    calls: list[Future[None]] = []

    def work() -> None:
        with worker_processes(2) as workers:
            pids.append(workers.submit(os.getpid).result())
            calls.extend(workers.submit(time.sleep, 3600.0) for _ in range(5))
            raise error

    with pytest.raises(error):
        work()
    assert not is_there(pids[0])
    assert all(call.cancelled() or call.exception() for call in calls)


def test_workers_may_be_stopped_twice_and_before_they_did_anything() -> None:
    workers = Workers(2)
    workers.stop()
    workers.stop()


def test_process_that_ends_at_once_finds_no_cancelled_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_now(process: BaseProcess) -> None:
        process.kill()
        process.join()
        time.sleep(0.2)  # for the thread that looks after the processes to see it

    with worker_processes(1) as workers:
        workers.submit(os.getpid).result()
        calls = [workers.submit(time.sleep, 3600.0) for _ in range(9)]
        assert calls[-1].cancel()
        monkeypatch.setattr(BaseProcess, "terminate", end_now)
        workers.stop()
    assert all(call.cancelled() or call.exception() for call in calls)


def test_process_is_deaf_to_an_interrupt() -> None:
    with worker_processes(2) as workers:
        pid = workers.submit(os.getpid).result()
        os.kill(pid, signal.SIGINT)
        assert workers.submit(abs, -1).result() == 1


@pytest.mark.parametrize("words", ["capacity --hours 40", "plan --qps 30 --hours 40"])
def test_interrupted_command_ends_quietly_and_leaves_nobody_behind(words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "niyama", *words.split(), "--jobs", "2"]
    with (tmp_path / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            command,
            stderr=stderr,
            start_new_session=True,
            # Where the tests run in the background, interrupts are ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            if not children.exists():
                pytest.skip("needs /proc")
            while len(pids := children.read_text().split()) < 2:
                assert process.poll() is None
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.wait() == 130
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        stderr.seek(0)
        assert stderr.read() == ""
    assert not any(is_there(int(pid)) for pid in pids)
