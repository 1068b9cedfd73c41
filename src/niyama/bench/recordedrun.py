"""A recorded run: a folder with the client's records and the server's decision log."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from niyama.bench.decisions import DecisionLogError, parts_of, read_calls
from niyama.bench.records import Header, Record, RecordsError, read_records
from niyama.bench.serverlog import Seen, ServerLog, Step
from niyama.scheduling.recording import Call
from niyama.wording import one_line

RECORDS = "records.jsonl"
DECISIONS = "decisions.jsonl"

_CLOCKS_AGREE_S = 600.0
# Wall clocks of machines that keep the time differ by less, monotonic ones of two machines by more.
_SAME_CLOCK_S = 1.0
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
        calls: What the server that served the run wrote to the decision log, all of it; others may have
            written to the same log before and after.
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
        taken_at, gone_at = self._span
        first = bisect_right([step.ended_at for step in self.log.steps], taken_at)
        last = bisect_left([step.started_at for step in self.log.steps], gone_at)
        return self.log.steps[first:last]

    @property
    def causes(self) -> Counter[str]:
        """In what the launches planned in that time differ from their plans: requests, or steps, by cause."""
        taken_at, gone_at = self._span
        found: Counter[str] = Counter()
        for planned_at, causes in self.log.otherwise:
            if taken_at <= planned_at < gone_at:
                found.update(causes)
        return found

    @property
    def _span(self) -> tuple[float, float]:
        """When the first request was taken in, and when the last one was gone."""
        taken = [seen.taken_at for seen in self.seen.values()]
        gone = [seen.departed_at for seen in self.seen.values() if seen.departed_at is not None]
        return min(taken, default=0.0), max(gone, default=0.0)


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


def recorded_calls(path: Path) -> Iterable[Call]:
    """Return the calls of the server that served the run in a folder, or all of a decision log.

    A folder without records says nothing of a run, so its log counts as one alone.

    Raises:
        RunError: see `load_run`.
        DecisionLogError, OSError: see `decisions.read_calls`.
    """
    if not path.is_dir():
        return read_calls(path)
    return load_run(path).calls if (path / RECORDS).is_file() else read_calls(find_decisions(path))


def find_decisions(folder: Path) -> Path:
    """Return the decision log in a run's folder, or in the one above. Raises RunError if there is none."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no folder; give one with {RECORDS} and {DECISIONS}")
    for path in (folder / DECISIONS, folder.resolve().parent / DECISIONS):
        if path.is_file():
            return path
    raise RunError(f"{folder}: no {DECISIONS} in it; serve with --decision-log, and put the file there")


def join(name: str, header: Header, records: list[Record], calls: list[Call]) -> RecordedRun:
    """Return the run of these records, at the one of the servers in the log that served it.

    A comparison that is taken up again asks a new server for requests with the same ids, so the time tells
    which attempt these records are of.

    Raises:
        RunError: the records and the calls have nothing in common, or not at the same time.
    """
    found: list[RecordedRun] = []
    is_known = False
    for part in parts_of(calls):
        log = ServerLog.of(part)
        is_known = is_known or bool(_match(header, records, log.requests))
        for begins_at in _beginnings(header, log):
            seen = _match(header, records, log.requests, begins_at - _SKEW_S)
            if _is_plausible(records, seen, begins_at):
                found.append(RecordedRun(name, header, records, part, log, seen, begins_at))
                break
    if found:
        return max(found, key=lambda run: len(run.seen))
    if is_known:
        raise RunError(
            f"{name}: the clocks of client and server disagree; run both on machines with the same time"
        )
    raise RunError(
        f"{name}: the decision log knows none of the {len(records)} requests of run {header.run_id!r}; "
        "give the log of the server that was measured"
    )


def _match(
    header: Header, records: Iterable[Record], requests: dict[str, Seen], since: float = -math.inf
) -> dict[str, Seen]:
    """Find each record's request: vLLM puts a prefix and suffixes around the id that the client gave.

    Args:
        header: Of the records.
        records: Whose requests to find.
        requests: By vLLM's id.
        since: Instant on the server's clock; what it took in before is of an earlier attempt.
    """
    ids = {f"{header.run_id}-{record.id}": record.id for record in records}
    seen: dict[str, Seen] = {}
    for request_id, request in requests.items():
        if request.taken_at < since:
            continue
        for stem in (request_id, request_id.partition("-")[2]):
            while stem and stem not in ids:
                stem = stem.rpartition("-")[0]
            if stem:
                seen.setdefault(ids[stem], request)
                break
    return seen


def _beginnings(header: Header, log: ServerLog) -> list[float]:
    """Return where on the server's clock the run may begin, the likelier instant first.

    Monotonic clocks count from the boot of their machine. Only if wall clocks say the same is the client's
    the server's as well; it is the better one then, for it is never set.
    """
    shared = header.started_monotonic
    if log.start is None:
        return [shared]
    by_wall = log.start["monotonic_at"] + header.started_at - log.start["wall_at"]
    return [shared, by_wall] if abs(shared - by_wall) <= _SAME_CLOCK_S else [by_wall, shared]


def _is_plausible(records: Iterable[Record], seen: dict[str, Seen], begins_at: float) -> bool:
    """Whether the server took requests in when they were sent or soon after, if the run began then."""
    lags_s = [
        seen[record.id].taken_at - begins_at - record.sent_at
        for record in records
        if record.id in seen and record.sent_at is not None
    ]
    return bool(lags_s) and -_SKEW_S < statistics.median(lags_s) < _CLOCKS_AGREE_S
