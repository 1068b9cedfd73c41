"""A recorded run: a folder with the client's records and the server's decision log."""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from niyama.bench.decisions import DecisionLogError, read_calls
from niyama.bench.records import Header, Record, RecordsError, read_records
from niyama.bench.serverlog import Seen, ServerLog, Step
from niyama.scheduling.recording import Call
from niyama.wording import one_line

RECORDS = "records.jsonl"
DECISIONS = "decisions.jsonl"

_CLOCKS_AGREE_S = 600.0
# Stamps are taken by the wall clock; it may be a little behind the client's.
_SKEW_S = 0.5


class RunError(ValueError):
    """A run that cannot be used; the message is one line and names the folder or the file."""


@dataclass(slots=True)
class RecordedRun:
    """What client and server saw of the same requests.

    Attributes:
        name: For people.
        header: Of the records.
        records: All, in the order of the file.
        calls: The server's decision log, all of it.
        log: The same, gathered.
        seen: The server's view of a record's request, by the record's id; some never arrived.
        begins_at: Start of the run on the server's clock; add it to a record's instants.
    """

    name: str
    header: Header
    records: list[Record]
    calls: list[Call]
    log: ServerLog
    seen: dict[str, Seen]
    begins_at: float

    @property
    def steps(self) -> list[Step]:
        """The engine's steps from the first request's arrival to the last one's end."""
        taken = [seen.taken_at for seen in self.seen.values()]
        gone = [seen.departed_at for seen in self.seen.values() if seen.departed_at is not None]
        first = bisect_right([step.ended_at for step in self.log.steps], min(taken, default=0.0))
        last = bisect_left([step.started_at for step in self.log.steps], max(gone, default=0.0))
        return self.log.steps[first:last]


def load_run(folder: Path) -> RecordedRun:
    """Return the run in a folder; the decision log may lie in the folder above, for several runs.

    Raises:
        RunError: a file is missing or holds something else, or client and server saw different requests.
    """
    decisions = find_decisions(folder)
    try:
        header, records = read_records(folder / RECORDS)
        calls = list(read_calls(decisions))
    except (RecordsError, DecisionLogError) as error:
        raise RunError(str(error)) from None
    except OSError as error:
        raise RunError(one_line(f"{error.filename}: cannot be read: {error.strerror}")) from None
    return join(folder.name or str(folder), header, records, calls)


def find_decisions(folder: Path) -> Path:
    """Return the decision log in a run's folder, or in the one above. Raises RunError if there is none."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no folder; give one with {RECORDS} and {DECISIONS}")
    for path in (folder / DECISIONS, folder.resolve().parent / DECISIONS):
        if path.is_file():
            return path
    raise RunError(f"{folder}: no {DECISIONS} in it; serve with --decision-log, and put the file there")


def join(name: str, header: Header, records: list[Record], calls: list[Call]) -> RecordedRun:
    """Return the run of these records and calls. Raises RunError if they have nothing in common."""
    log = ServerLog.of(calls)
    seen = _match(header, records, log.requests)
    if not seen:
        raise RunError(
            f"{name}: the decision log knows none of the {len(records)} requests of run {header.run_id!r}; "
            "give the log of the server that was measured"
        )
    return RecordedRun(name, header, records, calls, log, seen, _begins_at(name, header, records, log, seen))


def _match(header: Header, records: Iterable[Record], requests: dict[str, Seen]) -> dict[str, Seen]:
    """Find each record's request: vLLM puts a prefix and suffixes around the id that the client gave."""
    ids = {f"{header.run_id}-{record.id}": record.id for record in records}
    seen: dict[str, Seen] = {}
    for request_id, request in requests.items():
        for stem in (request_id, request_id.partition("-")[2]):
            while stem and stem not in ids:
                stem = stem.rpartition("-")[0]
            if stem:
                seen.setdefault(ids[stem], request)
                break
    return seen


def _begins_at(
    name: str, header: Header, records: Iterable[Record], log: ServerLog, seen: dict[str, Seen]
) -> float:
    """Return the run's start on the server's clock: the shared one, else by wall clocks."""
    sent = [(r.sent_at, seen[r.id].taken_at) for r in records if r.id in seen and r.sent_at is not None]
    candidates = [header.started_monotonic]
    if log.start is not None:
        candidates.append(log.start["monotonic_at"] + header.started_at - log.start["wall_at"])
    for begins_at in candidates:
        lag_s = statistics.median(taken_at - begins_at - sent_at for sent_at, taken_at in sent)
        if -_SKEW_S < lag_s < _CLOCKS_AGREE_S:
            return begins_at
    raise RunError(
        f"{name}: the clocks of client and server disagree; run both on machines with the same time"
    )
