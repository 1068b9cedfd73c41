"""The comparison: every contestant in turn, the same requests at the same instants to each.

    basis      stock vLLM with the largest chunk: what it sustains (load 1), and the SLO rule's step time
    knees      the highest load that keeps every class in time; stock vLLM with every chunk, the best counts
    tuning     stock vLLM's best chunk: the one with the highest knee, or the best at load 1
    scenarios  each in turn by every contestant, one server at a time

What is done is in the store; a second call goes on where the first one ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from niyama.bench.client import Progress, run_async
from niyama.bench.compareruns import measure_basis, run_job
from niyama.bench.compareserver import OneServer
from niyama.bench.comparestore import Store, StoreError
from niyama.bench.contestants import CHUNKS, Contestant, Engine
from niyama.bench.expected import ExpectedKnees
from niyama.bench.kneefinder import KneeFinder
from niyama.bench.promises import rule_book, with_low_twins
from niyama.bench.scenarios import (
    BACKLOG_SHARE,
    OWN_KNEE,
    SEARCHED,
    TUNE,
    TUNE_LOAD,
    Job,
    Traffic,
    plan_jobs,
)
from niyama.emulation import scaled_book
from niyama.qos import QosBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What to compare.

    Attributes:
        engine: On which all run.
        policies: Contestants by name, in their order.
        chunks: Of which stock vLLM gets the best.
        scenarios: See `niyama.bench.scenarios`.
        loads: Of the scenario `steady`.
        wants_knee: Whether the knees are searched.
        repeats: How often each run of a scenario is done, each time with another seed.
        book: The promises as a user would write them; None for the SLO rule.
        book_name: What a report calls them: `rule`, `paper`, `tight` or a file's name.
        traffic: What arrives; its book is set here.
        keeps_records: Whether every request and step is kept.
    """

    engine: Engine
    policies: Sequence[str]
    chunks: Sequence[int] = CHUNKS
    scenarios: Sequence[str] = ("steady",)
    loads: Sequence[float] = (0.85, 1.3)
    wants_knee: bool = False
    repeats: int = 1
    book: QosBook | None = None
    book_name: str = "rule"
    traffic: Traffic
    keeps_records: bool = False


Tell = Callable[[str], None]

TRIES = 2
"""A run that is INVALID is done again; after so many in one command it is taken as it is."""


@dataclass(slots=True)
class Comparer:
    """Runs a comparison into a store."""

    what: Comparison
    store: Store
    tell: Tell
    progress: Progress | None = None
    basis: dict[str, Any] = field(default_factory=dict[str, Any])
    traffic: Traffic = field(init=False)
    best_chunk: dict[str, int] = field(default_factory=dict[str, int])
    knees: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    used: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict[tuple[str, str], dict[str, Any]])
    """Every run that had a part in it, by the keys of contestant and job."""
    _written_book: QosBook = field(init=False)
    _finder: KneeFinder = field(init=False)
    _server: OneServer = field(init=False)
    _num_tries: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def __post_init__(self) -> None:
        """Start nothing yet."""
        self._server = OneServer(self.what.engine, self.store.folder, self.what.keeps_records)

    def run(self) -> None:
        """Do all that is not done yet.

        Raises:
            ServerError: a server does not start.
            ClientError: a request failed before a run.
            TargetError: a server cannot be measured.
            StoreError: the folder cannot be read or written, its load 1 is another one, or another
                comparison is at work in it.
        """
        with self.store.held(), self._server:
            self._find_basis()
            if self.what.wants_knee:
                self.knees = self._finder.knees(self.what.policies)
            self._tune()
            # Job by job, not server by server: a machine's speed changes within minutes.
            for job in plan_jobs(self.what.scenarios, self.what.loads, self.what.repeats):
                for policy in self.what.policies:
                    self._do(self._contestant(policy, job), [job])
            if "backlog" in self.what.scenarios:
                for policy in self.what.policies:
                    self._backlog(policy)

    def _contestant(self, policy: str, job: Job) -> Contestant:
        """Return who runs a job: stock vLLM with its best chunk, where only throughput counts the largest."""
        if job.scenario == "alone" and Contestant(policy).is_stock:
            return Contestant(policy, max(self.what.chunks))
        return Contestant(policy, self.best_chunk.get(policy))

    # What the loads and the promises are ---------------------------------------------------------

    def _find_basis(self) -> None:
        book, chunk = self.what.book, max(self.what.chunks)
        found = self.store.read("basis")
        if found is None:
            # Any promises will do to measure what an unaware server sustains.
            self._set_book(book or rule_book(1.0))
            found = self._measure_basis(chunk)
            if not found["valid"]:
                found = self._measure_basis(chunk)
        # A folder of an earlier version does not say its chunk.
        if found.get("chunk", chunk) != chunk:
            raise StoreError(
                f"--chunks: the largest is {chunk}, but load 1 in {self.store.folder} was measured with "
                f"{found['chunk']}; allowed: {found['chunk']} as the largest, or another folder"
            )
        self.basis = found
        self._set_book(book or rule_book(float(found["step_s"])))
        saturation_qps = float(found["saturation_qps"])
        lengths = replace(self.traffic.lengths, max_total=found.get("max_total"))
        self._finder = KneeFinder(
            chunks=self.what.chunks,
            best_chunk=self.best_chunk,
            expected=ExpectedKnees(
                engine=self.what.engine,
                traffic=replace(self.traffic, lengths=lengths),
                book=self._written_book,
                saturation_qps=saturation_qps,
                found=self.store.read("expected") or {},
                keep=partial(self.store.write, "expected"),
            ),
            saturation_qps=saturation_qps,
            run=self._one,
            tell=self.tell,
        )

    def _measure_basis(self, chunk: int) -> dict[str, Any]:
        """Measure what stock vLLM sustains; what is kept stays, since all loads are shares of it."""
        stock = Contestant("vllm-fcfs", chunk)
        self.tell(f"basis: what {stock.key} sustains")
        url = self._server.url(stock, self._written_book)
        found = run_async(measure_basis(url, self.traffic, self.what.book is None))
        found["chunk"] = chunk
        self.store.write("basis", found)
        self.tell(f"basis: {found['saturation_qps']:.2f} requests/s" + _invalid(found))
        return found

    def _set_book(self, book: QosBook) -> None:
        self._written_book = with_low_twins(book)
        emulation = self.what.engine.emulation
        judged = self._written_book
        if emulation is not None:
            judged = scaled_book(judged, emulation.speedup)
        self.traffic = replace(self.what.traffic, book=judged)

    # Choosing -----------------------------------------------------------------------------------

    def _tune(self) -> None:
        """Find stock vLLM's best chunk: that with the highest knee, or the best one at load 1."""
        for policy in self.what.policies:
            if not Contestant(policy).is_stock:
                continue
            if len(self.what.chunks) == 1:
                self.best_chunk[policy] = self.what.chunks[0]
                continue
            if self.what.wants_knee and self.knees[policy]["load"]:
                self.best_chunk[policy] = self.knees[policy]["chunk"]
            else:
                self.best_chunk[policy] = self._best_at_load_1(policy)
            self.tell(f"tuning: the best chunk of {policy} is {self.best_chunk[policy]}")

    def _best_at_load_1(self, policy: str) -> int:
        """Return the chunk with the fewest late requests at load 1, by goodput where that is equal."""
        job = Job(TUNE, TUNE_LOAD)
        rows = {chunk: self._do(Contestant(policy, chunk), [job])[0] for chunk in self.what.chunks}
        rows = {chunk: row for chunk, row in rows.items() if row["valid"]} or rows
        return min(rows, key=lambda n: (rows[n]["late_share"]["all"], -rows[n]["goodput_rps"]))

    def _backlog(self, policy: str) -> None:
        knee = self._finder.knees([policy], OWN_KNEE)[policy]
        load = round(BACKLOG_SHARE * knee["load"], 4)
        if load:
            contestant = Contestant(policy, knee["chunk"])
            self._do(contestant, [Job("backlog", load, n) for n in range(self.what.repeats)])
        else:
            self.tell(f"backlog of {policy}: left out, the interactive classes are late at any load")

    # Running ------------------------------------------------------------------------------------

    def _do(self, contestant: Contestant, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Return the rows of jobs."""

        async def all_of_them() -> list[dict[str, Any]]:
            return [await self._one(contestant, job) for job in jobs]

        return run_async(all_of_them())

    async def _one(self, contestant: Contestant, job: Job) -> dict[str, Any]:
        """Return the row of a job: that of a run that counts if one can be had in `TRIES`."""
        key = (contestant.key, job.key)
        while (row := self._done(contestant, job)) is None:
            self._num_tries[key] += 1
            await self._run(contestant, job)
        self.used[key] = row
        return row

    async def _run(self, contestant: Contestant, job: Job) -> None:
        """Run a job and keep its row."""
        url = self._server.url(contestant, self._written_book)
        seconds = self.traffic.run_s(job.scenario)
        self.tell(f"{contestant.key}: {job.scenario} at load {job.load:g}, {seconds:.0f} s")
        records = self.store.records_file(contestant, job) if self.what.keeps_records else None
        row = await run_job(
            url,
            contestant,
            job,
            self.traffic,
            self.basis["saturation_qps"],
            records=records,
            progress=self.progress,
        )
        self.store.keep(contestant, job, row)
        if row.get("settled_by") or not row["valid"]:
            # What a server remembers of a load that it could not bear is not the next run's; nor
            # is the next run to meet a server that died.
            self._server.stop()
        self.tell(f"{contestant.key}: {job.scenario} at load {job.load:g}: {outcome(row)}{_invalid(row)}")

    def _done(self, contestant: Contestant, job: Job) -> dict[str, Any] | None:
        """Return a finished run, or one of another name that was sent the same and shows as much."""
        row = self.store.run(contestant, job)
        if row is not None and not row["valid"] and self._num_tries[contestant.key, job.key] < TRIES:
            row = None
        for twin in job.twins:
            if row is None:
                same = self.store.run(contestant, twin)
                is_whole = same is not None and (job.scenario in SEARCHED or not same.get("settled_by"))
                if same is not None and same["valid"] and is_whole:
                    row = {**same, "scenario": job.scenario}
                    self.store.keep(contestant, job, row)
        return row


def outcome(row: Mapping[str, Any]) -> str:
    """Return what a run showed; of one that ended early why, for who still waited then is in no share."""
    if row.get("settled_by"):
        return f"ended early, {row['settled_by']}"
    late = row["late_share"]
    if not late:
        return f"{row['throughput_tps']:.0f} tokens/s"
    latest = max((share, name) for name, share in late.items() if name != "all")
    return f"{late['all']:.1%} late, {latest[0]:.1%} of {latest[1]}"


def _invalid(row: Mapping[str, Any]) -> str:
    return "" if row["valid"] else " (INVALID)"
