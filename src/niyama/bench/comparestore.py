"""A comparison on disk: what is done stays done, so that hours of runs survive an interruption.

DIR/settings.json          what all runs have in common; another comparison needs another folder
DIR/basis.json             what stock vLLM sustains, and the step time of the SLO rule
DIR/expected.json          knees in the simulator, from which the search of an emulated engine starts
DIR/runs/CONTESTANT/RUN.json   one file per finished run
DIR/logs                   output of the servers
DIR/lock                   held by the one that runs, empty
DIR/records/CONTESTANT/RUN/records.jsonl, .../CONTESTANT/decisions.jsonl, steps.jsonl
                           every request, decision and step, with --records
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from niyama.bench.contestants import Contestant
from niyama.bench.recordedrun import RECORDS
from niyama.bench.scenarios import Job
from niyama.wording import one_line, shown


class StoreError(RuntimeError):
    """A folder that cannot be used; the text is one line."""


class Store:
    """The folder of one comparison.

    Raises:
        StoreError: the folder cannot be written, or holds a comparison with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        try:
            for part in ("runs", "logs", "records"):
                (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(one_line(f"--out {folder}: cannot make it: {error.strerror}")) from None
        plain = json.loads(json.dumps(settings))
        found = self.read("settings")
        if found is None:
            self.write("settings", plain)
            return
        if differs := _difference(found, plain):
            raise StoreError(
                f"--out {folder}: it holds runs with {differs}; allowed: the same settings, or another folder"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other comparisons out until the block ends; whoever dies holds nothing.

        Two at once would measure each other, and write the same files.

        Raises:
            StoreError: another comparison is at work in the folder, or it cannot be written.
        """
        try:
            lock = (self.folder / "lock").open("a")
        except OSError as error:
            raise StoreError(one_line(f"--out {self.folder}: cannot write: {error.strerror}")) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(
                    f"--out {self.folder}: another comparison is at work in it; allowed: to wait for its "
                    "end, or another folder"
                ) from None
            yield

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a file's object, or None if it is not there. Raises StoreError if it is damaged."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(one_line(f"{path}: cannot read it: {error}")) from None
        if not isinstance(content, dict):
            raise StoreError(f"{path}: holds no object; remove it to run again")
        return content

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file, whole or not at all. Raises StoreError."""
        path = self.folder / f"{name}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(".part")
            scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(scratch, path)
        except OSError as error:
            raise StoreError(one_line(f"{path}: cannot write: {error.strerror}")) from None

    def run(self, contestant: Contestant, job: Job) -> dict[str, Any] | None:
        """Return a finished run, or None."""
        return self.read(f"runs/{contestant.key}/{job.key}")

    def keep(self, contestant: Contestant, job: Job, row: Mapping[str, Any]) -> None:
        """Keep a finished run."""
        self.write(f"runs/{contestant.key}/{job.key}", row)

    def records_file(self, contestant: Contestant, job: Job) -> Path:
        """Return where every request of a run goes: in a folder that `niyama replay` takes."""
        return self.folder / "records" / contestant.key / job.key / RECORDS


def _difference(found: object, given: object, name: str = "") -> str | None:
    """Return where two settings differ first, and both values: `seed 1, not 2`; None if they do not."""
    if isinstance(found, Mapping) and isinstance(given, Mapping):
        for key in sorted(found.keys() | given.keys()):
            if part := _difference(found.get(key), given.get(key), f"{name}.{key}" if name else str(key)):
                return part
        return None
    return None if found == given else f"{name} {_value(found)}, not {_value(given)}"


def _value(value: object) -> str:
    return shown(" ".join(map(str, value)) if isinstance(value, list) else value)
