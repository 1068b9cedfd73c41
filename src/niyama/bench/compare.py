"""The comparison: every contestant in turn, the same requests at the same instants to each.

    basis      stock vLLM with the largest chunk: what it sustains (load 1), and the SLO rule's step time
    knees      the highest load that keeps every class in time; stock vLLM with every chunk, the best counts
    tuning     stock vLLM's best chunk: the one with the highest knee, or the best at load 1
    scenarios  each in turn by every contestant, one server at a time

What is done is in the store; a second call goes on where the first one ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from niyama.bench.client import Progress, run_async
from niyama.bench.compareruns import measure_basis, run_job
from niyama.bench.comparestore import Store
from niyama.bench.contestants import CHUNKS, Contestant, Engine
from niyama.bench.knee import passes, raise_knee, raise_knees
from niyama.bench.promises import rule_book, with_low_twins
from niyama.bench.scenarios import (
    BACKLOG_SHARE,
    KNEE,
    OWN_KNEE,
    SEARCHED,
    TUNE,
    TUNE_LOAD,
    Job,
    Traffic,
    plan_jobs,
)
from niyama.bench.servers import free_port, serving
from niyama.emulation import scaled_book
from niyama.qos import QosBook
from niyama.qosfile import book_to_mapping


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
    _written_book: QosBook = field(init=False)
    _servers: ExitStack = field(default_factory=ExitStack)
    _running: tuple[Contestant, str] | None = None

    def run(self) -> None:
        """Do all that is not done yet.

        Raises:
            ServerError: a server does not start.
            ClientError: a request failed before a run.
            TargetError: a server cannot be measured.
            StoreError: the folder cannot be read or written.
        """
        with self._servers:
            self._find_basis()
            if self.what.wants_knee:
                self._find_knees()
            self._tune()
            # Job by job, not server by server: a machine's speed changes within minutes.
            for job in plan_jobs(self.what.scenarios, self.what.loads, self.what.repeats):
                for policy in self.what.policies:
                    self._do(self._contestant(policy), [job])
            if "backlog" in self.what.scenarios:
                for policy in self.what.policies:
                    self._backlog(policy)

    def _contestant(self, policy: str) -> Contestant:
        return Contestant(policy, self.best_chunk.get(policy))

    # What the loads and the promises are ---------------------------------------------------------

    def _find_basis(self) -> None:
        what = self.what
        book = what.book
        found = self.store.read("basis")
        if found is None:
            # Any promises will do to measure what an unaware server sustains.
            self._set_book(book or rule_book(1.0))
            stock = Contestant("vllm-fcfs", max(what.chunks))
            self.tell(f"basis: what {stock.key} sustains")
            url = self._url(stock)
            found = run_async(measure_basis(url, self.traffic, book is None))
            self.store.write("basis", found)
        self.basis = found
        self._set_book(book or rule_book(float(found["step_s"])))

    def _set_book(self, book: QosBook) -> None:
        self._written_book = with_low_twins(book)
        emulation = self.what.engine.emulation
        judged = self._written_book
        if emulation is not None:
            judged = scaled_book(judged, emulation.speedup)
        self.traffic = replace(self.what.traffic, book=judged)

    # Choosing -----------------------------------------------------------------------------------

    def stock(self, policy: str) -> list[Contestant]:
        """Return stock vLLM under a policy with every chunk."""
        return [Contestant(policy, chunk) for chunk in self.what.chunks]

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
        return min(rows, key=lambda n: (rows[n]["late_share"]["all"], -rows[n]["goodput_rps"]))

    def _find_knees(self) -> None:
        """Find every policy's knee, load by load in turn."""
        first = {policy: self._candidates(policy)[0] for policy in self.what.policies}
        run_async(raise_knees({name: partial(self._holds, one, KNEE) for name, one in first.items()}))
        for policy in self.what.policies:
            # What was run in turn is not run again.
            self.knees[policy] = self._knee(policy, KNEE)

    def _knee(self, policy: str, scenario: str) -> dict[str, Any]:
        """Return the knee of a policy: of its best chunk, if it has chunks."""
        knee, chunk = 0.0, self.best_chunk.get(policy)
        for contestant in self._candidates(policy):
            found = run_async(raise_knee(partial(self._holds, contestant, scenario), knee))
            if found > knee:
                knee, chunk = found, contestant.chunk
        self.tell(f"{scenario} of {policy}: {knee:g}")
        return {"load": knee, "qps": knee * self.basis["saturation_qps"], "chunk": chunk}

    def _candidates(self, policy: str) -> list[Contestant]:
        """Return what may have the highest knee, the likeliest first: the others need only one run each."""
        if not Contestant(policy).is_stock:
            return [Contestant(policy)]
        all_of_them = self.stock(policy)
        first = self.best_chunk.get(policy, self.what.chunks[(len(self.what.chunks) - 1) // 2])
        return sorted(all_of_them, key=lambda contestant: contestant.chunk != first)

    async def _holds(self, contestant: Contestant, scenario: str, load: float) -> bool:
        return passes(await self._one(contestant, Job(scenario, load)))

    def _backlog(self, policy: str) -> None:
        knee = self._knee(policy, OWN_KNEE)
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
        row = self._done(contestant, job)
        if row is not None:
            return row
        url = self._url(contestant)
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
        if row.get("settled_by"):
            # What the server remembers of a load that it could not bear is not the next run's.
            self._servers.close()
            self._running = None
        late = row["late_share"].get("all")
        self.tell(
            f"{contestant.key}: {job.scenario} at load {job.load:g}: "
            + (f"{row['throughput_tps']:.0f} tokens/s" if late is None else f"{late:.1%} late")
            + ("" if row["valid"] else " (INVALID)")
        )
        return row

    def _done(self, contestant: Contestant, job: Job) -> dict[str, Any] | None:
        """Return a finished run, or one of another name that was sent the same and shows as much."""
        row = self.store.run(contestant, job)
        for twin in job.twins:
            if row is None:
                same = self.store.run(contestant, twin)
                if same is not None and (job.scenario in SEARCHED or not same.get("settled_by")):
                    row = {**same, "scenario": job.scenario}
                    self.store.keep(contestant, job, row)
        return row

    def _url(self, contestant: Contestant) -> str:
        """Return the address of a contestant's server; starts it if another one or none is running."""
        if self._running is None or self._running[0] != contestant:
            self._servers.close()
            self._running = (contestant, self._servers.enter_context(self._serving(contestant)))
        return self._running[1]

    @contextmanager
    def _serving(self, contestant: Contestant) -> Iterator[str]:
        folder = self.store.folder
        qos = folder / "qos.yaml"
        qos.write_text(yaml.safe_dump(book_to_mapping(self._written_book), sort_keys=False), encoding="utf-8")
        steps: Path | None = None
        if self.what.keeps_records and not contestant.is_stock:
            steps = (folder / "records" / f"{contestant.key}-steps.jsonl").absolute()
        port = free_port()
        engine = self.what.engine
        words = engine.command(contestant, port, qos, steps)
        log = folder / "logs" / f"{contestant.key}.log"
        with serving(words, port, log, engine.environment()) as url:
            yield url
