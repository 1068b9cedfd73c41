"""What `benchmarks/policy.py` keeps, finds again and judges."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from niyama.bench.reproduce.cases import find_traces
from niyama.workload.generate import Shares
from niyama.workload.tracefile import TraceRow

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name: str) -> Any:
    return import_module(f"policytargets.{name}")


def trial(**fields: Any) -> Any:
    return module("trials").Trial(trace=find_traces(None)["azure-code"], policy="niyama", **fields)


def test_what_was_simulated_is_read_and_not_simulated_again(tmp_path: Path) -> None:
    runs = module("runs").Runs(tmp_path, shorten=60.0)
    first = runs.load(trial(book="tight"), 3.0, 2.0)
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace('"relegated": 0.0', '"relegated": 0.5'))
    again = module("runs").Runs(tmp_path, shorten=60.0).load(trial(book="tight"), 3.0, 2.0)
    assert (first.relegated, again.relegated) == (0.0, 0.5)
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize(
    "field",
    [
        {"book": "tight"},
        {"mix": (1, 2, 3)},
        {"seed": 1},
        {"criterion": "paper"},
        {"replicas": 2},
        {"router": "least-loaded"},
    ],
)
def test_another_question_is_another_result(tmp_path: Path, field: dict[str, Any]) -> None:
    runs = module("runs").Runs(tmp_path, shorten=240.0)
    runs.probe(trial(), 3.0, 2.0)
    runs.probe(trial(**field), 3.0, 2.0)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_change_of_niyama_alone_leaves_the_others_results() -> None:
    trials = module("trials")
    assert trials.code("paper") == trials.code("edf") != trials.code("niyama")
    assert set(import_module("niyama.compiled").MODULES) >= trials.NIYAMA_ALONE


def test_the_best_static_alpha_serves_no_less_than_the_published_one(tmp_path: Path) -> None:
    runs = module("runs").Runs(tmp_path, shorten=24.0)
    paper = module("trials").under(trial(book="tight"), "paper")
    published_qps = runs.capacity(paper, 2.0)
    best_qps, best_ms = runs.best_alpha(paper, 2.0, published_qps)
    assert best_qps > published_qps > 0
    assert best_ms < module("trials").PUBLISHED_MS
    assert runs.probe(module("trials").with_alpha(paper, best_ms), best_qps, 2.0).is_met


def test_the_page_lists_what_is_missed_first(tmp_path: Path) -> None:
    verdict, summary = module("verdict"), module("summary")
    targets = [verdict.at_least("met one", 2.0, 1.0), verdict.at_most("missed one", 0.02, 0.01)]
    found = verdict.Part("A part", targets, [verdict.Table("numbers", ["a"], [["1"]])])
    summary.keep(tmp_path, "tight", found, "set-up")
    summary.write(tmp_path, ["paper", "tight"])
    page = (tmp_path / summary.PAGE).read_text()
    assert "1 of 2 targets are met." in page
    assert page.index("| missed one | <= 1.00% | 2.00% |") < page.index("met one")
    assert page.index("## A part") < page.index("| missed one | <= 1.00% | 2.00% | MISSED |")


def test_beyond_capacity_the_largest_requests_are_shed_first() -> None:
    rows = [(TraceRow(None, n - 1, 1), 1.0) for n in (100, 100, 100, 300)]
    lengths = Shares(rows)
    workload = dataclasses.replace(trial().workload(), lengths=lengths)
    largest_beyond = module("overload").largest_beyond
    assert largest_beyond(workload, 2.0) == pytest.approx(0.25), "the one of 300 is half of all tokens"
    assert largest_beyond(workload, 1.2) == pytest.approx(0.25 / 3), "a third of it is a sixth of all tokens"
    assert largest_beyond(workload, 3.0) == pytest.approx(0.5)


def test_a_fleet_is_held_against_the_throughput_of_all_its_replicas() -> None:
    single, fleet = trial(), trial(replicas=3, router="slack-aware")
    assert fleet.bound_qps() == pytest.approx(3 * single.bound_qps())
    assert fleet.policy_bound_qps() == pytest.approx(3 * single.policy_bound_qps())
    fcfs = module("trials").under(fleet, "fcfs")
    assert fcfs.policy_bound_qps() < fcfs.bound_qps(), "its steps are smaller"
    assert (fleet.setup().num_replicas, fleet.setup().router.reads_state) == (3, True)


def test_silos_are_as_large_as_their_shares_of_the_load_ask_for() -> None:
    class Searched:
        def capacity(self, silo: Any, hours: float) -> float:
            assert (silo.policy, silo.chunk) == ("fcfs", 256 if silo.mix[0] else 2048)
            return 3.0 if silo.mix == (1, 0, 0) else 6.0

    siloed_qps = module("fleets")._siloed_qps(Searched(), trial(), 4.0)
    # Of nine requests a second three are interactive, one GPU; six are not, another.
    assert siloed_qps == pytest.approx(9 / 2)


def test_the_fleets_part_judges_every_router_alike(tmp_path: Path) -> None:
    runs, fleets = module("runs").Runs(tmp_path, shorten=720.0), module("fleets")
    part = fleets.routers(runs, find_traces(None))
    assert len(part.targets) == len(part.tables[0].rows) == len(fleets.TRACES)
    for row in part.tables[0].rows:
        *qps, ratio = row[2:]
        assert all(0 < float(found) <= float(qps[-1]) for found in qps[:-1])
        assert float(ratio.rstrip("x")) == pytest.approx(float(qps[2]) / float(qps[1]), abs=0.01)
