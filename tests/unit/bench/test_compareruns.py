"""Runs of a comparison, as they are: against a server of the tests."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.bench.recorded import arrivals, record, save
from tests.unit.bench.sseserver import SseServer, sse_server

from niyama.bench import compareruns
from niyama.bench.client import Rules, run_async
from niyama.bench.compareruns import measure_basis, run_job
from niyama.bench.comparestore import Store
from niyama.bench.contestants import Contestant
from niyama.bench.planned import Lengths
from niyama.bench.recordedrun import load_run
from niyama.bench.scenarios import Job, Traffic
from niyama.qos import paper_book
from niyama.workload.generate import load_lengths

STOCK = Contestant("vllm-fcfs", 512)
TRAFFIC = Traffic(
    trace="azure-conv",
    rows=load_lengths("azure-conv"),
    lengths=Lengths(scale=0.05, max_output=5),
    book=paper_book(),
    seconds=2.0,
    closed_s=2.0,
)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of the tests is busy, so only what is held up on purpose is late."""
    monkeypatch.setattr(compareruns, "Rules", lambda: Rules(max_lag_s=0.4))
    monkeypatch.setattr(compareruns, "IN_FLIGHT", 4)
    monkeypatch.setattr(compareruns, "BACKLOG_IN_FLIGHT", 4)


def do(work: Coroutine[Any, Any, dict[str, Any]], held_up_s: float = 0.0) -> dict[str, Any]:
    """Return what some work returns; its event loop is held up for so long, time and again."""

    async def hold_up() -> None:
        while held_up_s:
            time.sleep(held_up_s)
            await asyncio.sleep(0.05)

    async def both() -> dict[str, Any]:
        beside = asyncio.create_task(hold_up())
        try:
            return await work
        finally:
            beside.cancel()

    return run_async(both())


def job(server: SseServer, scenario: str) -> Coroutine[Any, Any, dict[str, Any]]:
    return run_job(server.url, STOCK, Job(scenario, 1.0), TRAFFIC, 20.0)


@pytest.mark.parametrize("scenario", ["alone", "backlog"])
def test_closed_loops_count_only_if_the_client_kept_up(scenario: str) -> None:
    thresholds = gc.get_threshold()
    with sse_server() as server:
        good = do(job(server, scenario))
        bad = do(job(server, scenario), held_up_s=0.6)
    assert (good["valid"], good["invalid_because"]) == (True, [])
    assert good["client"]["loop_lag_s"]["p99"] < 0.4
    assert good["client"]["cpu_us_per_token"] > 0
    assert not bad["valid"]
    assert any("the client's event loop was up to" in reason for reason in bad["invalid_because"])
    in_closed = [reason for reason in bad["invalid_because"] if reason.startswith("in the closed loop: ")]
    assert len(in_closed) == (scenario == "backlog")
    assert gc.get_threshold() == thresholds


def test_load_1_counts_only_if_the_client_kept_up() -> None:
    with sse_server() as server:
        good = do(measure_basis(server.url, TRAFFIC, wants_step=False))
        bad = do(measure_basis(server.url, TRAFFIC, wants_step=False), held_up_s=0.6)
    assert good["valid"]
    assert good["saturation_qps"] > 0
    assert (bad["valid"], len(bad["invalid_because"])) == (False, 1)


def test_a_run_has_the_fields_that_the_page_lists() -> None:
    page = (Path(__file__).parents[3] / "docs" / "compare.md").read_text(encoding="utf-8")
    listed, _, rest = page.partition("load and repeat: ")[2].partition("`client`.")
    fields = {*re.findall(r"`(\w+)`", listed), "client"} - {"all"}
    assert len(fields) > 20
    with sse_server() as server:
        rows = {name: do(job(server, name)) for name in ("steady", "alone", "backlog")}
    lacking = {name: fields - rows[name].keys() for name in rows}
    of_server = {"relegated_share", "preemptions"}
    assert lacking["steady"] == set()
    assert lacking["backlog"] == of_server
    assert lacking["alone"] == {"requests", "ttft_s", "tbt_s", "ttlt_s", *of_server}
    said = rest.partition("\n-")[0]
    assert all(f"`{name}`" in said for name in lacking["alone"])


def test_what_is_kept_is_a_folder_for_replay(tmp_path: Path) -> None:
    """A simulated server's records and decisions, put where a comparison puts them."""
    store = Store(tmp_path, {})
    ours, steady = Contestant("niyama"), Job("steady", 1.0)
    path = store.records_file(ours, steady)
    run = record(arrivals(20, 5.0))
    save(run, path.parent)
    (path.parent / "decisions.jsonl").rename(tmp_path / "records" / "niyama" / "decisions.jsonl")
    assert [one.id for one in load_run(path.parent).records] == [one.id for one in run.records]


def test_records_of_a_run_make_their_folder(tmp_path: Path) -> None:
    path = tmp_path / "records" / "vllm-fcfs-512" / "steady-1.000-0" / "records.jsonl"
    with sse_server() as server:
        do(run_job(server.url, STOCK, Job("steady", 1.0), replace(TRAFFIC), 20.0, records=path))
    assert path.read_text(encoding="utf-8").count("\n") > 5
