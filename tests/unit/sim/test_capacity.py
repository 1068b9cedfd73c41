from __future__ import annotations

import json
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from niyama.cli import main
from niyama.latency import ChunkSearch, get_profile
from niyama.qos import QosBook, QosClass, Slo, paper_book
from niyama.scheduling.policy import BatchShape
from niyama.sim.bounds import bounds, mean_request
from niyama.sim.capacity import Probe, Question, Search, _search_ahead, attempt, capacities, search_around
from niyama.sim.live import ReplicaLimits, Role
from niyama.sim.report import late_share
from niyama.sim.run import Setup, simulate
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Shares, Workload, load_lengths
from niyama.workload.tracefile import TraceRow

UNLIMITED = ReplicaLimits(num_kv_tokens=10**9, max_num_seqs=10**6)
PROFILE = "a100-80gb/llama-3-8b/tp1"


class PairsAlone(ChunkSearch):
    """A second per pair of prefill attention, and nothing for anything else."""

    def predict_s(self, shape: BatchShape) -> float:
        return shape.attention_pairs

    def margin_s(self, predicted_s: float) -> float:
        return 0.0

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        raise AssertionError

    def stats(self) -> dict[str, object]:
        return {}


def workload(trace: str, book: QosBook | None = None) -> Workload:
    return Workload(name=trace, lengths=load_lengths(trace), book=book or paper_book(), arrivals=poisson)


@pytest.mark.parametrize(("trace", "qps"), [("azure-code", 4.83), ("sharegpt", 2.40), ("azure-conv", 6.6)])
def test_bound_without_memory_limits_is_the_known_throughput(trace: str, qps: float) -> None:
    assert bounds(workload(trace), get_profile(PROFILE), UNLIMITED).qps == pytest.approx(qps, rel=0.01)


def test_bounds_shrink_with_memory_and_with_a_pace() -> None:
    profile = get_profile(PROFILE)
    free = bounds(workload("sharegpt"), profile, UNLIMITED)
    tight = bounds(workload("sharegpt"), profile, ReplicaLimits(num_kv_tokens=100_000))
    assert free.tbt_qps < free.qps
    assert tight.qps < free.qps


def test_bound_with_a_pace_is_the_bound_if_no_class_has_one() -> None:
    book = QosBook("b", {"b": QosClass("b", Slo(ttlt_s=60.0))})
    found = bounds(workload("azure-code", book), get_profile(PROFILE), UNLIMITED)
    assert found.tbt_qps == found.qps


def test_bound_with_a_pace_is_that_of_the_classes_that_the_rows_name() -> None:
    rows = Shares([(TraceRow(None, 1000, 100, "batch"), 1.0)])
    named = Workload(name="x", lengths=rows, book=paper_book(), arrivals=poisson)
    found = bounds(named, get_profile(PROFILE), UNLIMITED)
    assert found.tbt_qps == found.qps


def test_bound_with_a_pace_counts_the_time_when_nobody_reads() -> None:
    profile = get_profile(PROFILE)
    rows = load_lengths("azure-code")
    slos = {
        "fast": Slo(ttft_s=6.0, tbt_s=0.05),
        "slow": Slo(ttft_s=6.0, tbt_s=0.2),
        "batch": Slo(ttlt_s=600.0),
    }
    book = QosBook("batch", {name: QosClass(name, slo) for name, slo in slos.items()})

    def tbt_qps(role: Role = "both", **mix: float) -> float:
        found = Workload(name="x", lengths=rows, book=book, arrivals=poisson, mix=mix)
        return bounds(found, profile, ReplicaLimits(role=role)).tbt_qps

    always, half, rarely = (tbt_qps(fast=share, batch=1 - share) for share in (1.0, 0.5, 0.01))
    none = tbt_qps(batch=1.0)
    assert always < half < rarely < none
    assert rarely == pytest.approx(none, rel=0.02)
    assert half < tbt_qps(slow=0.5, batch=0.5) < none
    assert tbt_qps(fast=0.5, slow=0.5) < half
    assert tbt_qps("prefill", fast=1.0) == tbt_qps("prefill", batch=1.0)


def test_mean_request_weighs_the_context_by_the_tokens_that_see_it() -> None:
    rows = Shares([(TraceRow(None, 100, 1), 1.0), (TraceRow(None, 200, 3), 1.0)])
    found = mean_request(Workload(name="x", lengths=rows, book=paper_book(), arrivals=poisson))
    # Prefill attention: half of (100 * 100 + 200 * 200) / 2, not half of 150 * 150.
    assert found == (150.0, 1.0, 200.5, 12_500.0)


def test_bound_counts_the_attention_of_long_prompts_not_of_the_mean_one() -> None:
    """By a model that counts nothing else: 2 prompts of 100 and 300 tokens have 5000 and 45000 pairs."""

    def bound_qps(*prompts: int, role: Role = "both") -> float:
        rows = Shares([(TraceRow(None, prompt, 1), 1.0) for prompt in prompts])
        found = Workload(name="x", lengths=rows, book=paper_book(), arrivals=poisson)
        return bounds(found, PairsAlone(), ReplicaLimits(role=role)).qps

    assert bound_qps(200) == pytest.approx(1 / (200**2 / 2))
    assert bound_qps(100, 300) == pytest.approx(2 / (5_000 + 45_000))
    # Where the prompt but for its last token is computed elsewhere, that token attends to all of it.
    assert bound_qps(200, role="decode") == pytest.approx(1 / ((200**2 - 199**2) / 2))


@pytest.mark.parametrize("answer", range(11))
def test_search_finds_the_last_load_that_is_met(answer: int) -> None:
    search = Search(0, 11)
    while not search.is_done:
        (point,) = search.points(1)
        search.learn(point, Probe("p", float(point), point <= answer, {}, True))
    assert search.low == answer
    assert len(search.probes) <= 4


def test_points_ahead_are_those_that_either_verdict_leads_to() -> None:
    search = Search(0, 8)
    assert search.points(1) == [4]
    assert search.points(3) == [4, 2, 6]
    assert sorted(search.points(99)) == [1, 2, 3, 4, 5, 6, 7]
    search.learn(4, Probe("p", 4.0, True, {}, True))
    assert search.points(2) == [6, 5]
    with pytest.raises(ValueError, match="point: 2 is settled; allowed: between 4 and 8"):
        search.learn(2, Probe("p", 2.0, False, {}, True))


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    # So few requests that verdicts go to and fro with the load.
    return [
        Question(setup=Setup(policy=policy), workload=workload("azure-code"), num_requests=250, max_late=0.05)
        for policy in ("fcfs", "edf")
    ]


@pytest.mark.parametrize("jobs", [2, 5])
def test_capacity_and_its_probes_do_not_depend_on_the_number_of_processes(
    questions: list[Question], jobs: int
) -> None:
    heard: list[Probe] = []
    one = capacities(questions, 30.0, resolution=40)
    many = capacities(questions, 30.0, resolution=40, jobs=jobs, progress=heard.append)
    assert many == one
    assert sorted(heard) == sorted(probe for search in one for probe in search.probes)
    assert all(0 < search.low < 40 for search in one)


@pytest.mark.parametrize("jobs", [2, 5])
def test_probes_ahead_leave_no_trace_when_verdicts_are_not_monotone(jobs: int) -> None:
    searches, plain = [Search(0, 33)], Search(0, 33)
    met = {n for n in range(1, 33) if n % 3}

    def found(point: int) -> Probe:
        return Probe("p", float(point), point in met, {}, True)

    def begin(n: int, point: int) -> Future[Probe]:
        future: Future[Probe] = Future()
        future.set_result(found(point))
        return future

    _search_ahead(searches, begin, jobs, lambda probe: None)
    while not plain.is_done:
        (point,) = plain.points(1)
        plain.learn(point, found(point))
    assert searches == [plain]


def test_probe_that_is_lost_is_given_up() -> None:
    question = Question(setup=Setup(policy="fcfs"), workload=workload("azure-code"), num_requests=3000)
    (search,) = capacities([question], 40.0, resolution=1)
    (lost,) = search.probes
    assert (lost.is_met, lost.is_complete) == (False, False)
    assert max(lost.late_share.values()) == pytest.approx(0.01, abs=0.002)


def test_capacity_command_writes_the_promised_fields(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    words = "capacity --hours 0.05 --resolution 3 --policies fcfs,edf --criterion paper --json"
    assert main([*words.split(), str(target)]) == 0
    result = json.loads(target.read_text())
    assert set(result) >= {"criterion", "capacity_qps", "bound_qps", "bound_tbt_qps", "probes"}
    assert result["criterion"] == "paper"
    assert list(result["capacity_qps"]) == ["fcfs", "edf"]
    assert all(0 <= qps <= result["bound_qps"] for qps in result["capacity_qps"].values())


def test_capacity_command_finds_the_best_chunk_of_policies_that_have_one(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    words = "capacity --hours 0.05 --resolution 4 --policies fcfs,niyama --chunks 32,2048 --json"
    assert main([*words.split(), str(target)]) == 0
    result = json.loads(target.read_text())
    assert list(result["capacity_qps"]) == ["fcfs", "fcfs@best", "niyama"]
    assert result["chunk"]["fcfs"] == 256
    assert result["chunk"]["niyama"] is None
    assert {probe["chunk"] for probe in result["probes"]} == {256, 32, 2048, None}
    met = [(p["qps"], p["chunk"]) for p in result["probes"] if p["policy"] == "fcfs" and p["is_met"]]
    best_qps = max(qps for qps, _ in met)
    assert result["capacity_qps"]["fcfs@best"] == best_qps >= result["capacity_qps"]["fcfs"]
    assert (best_qps, result["chunk"]["fcfs@best"]) in met


def test_capacity_command_says_where_the_search_hit_its_ceiling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    words = "capacity --requests 40 --resolution 2 --policies fcfs,edf --chunks 1 --json"
    assert main([*words.split(), str(target)]) == 0
    result = json.loads(target.read_text())
    assert result["capped"] == ["edf", "edf@best"]
    assert result["capacity_qps"]["edf"] == pytest.approx(result["bound_qps"])
    text = capsys.readouterr().out
    assert f"\nedf{'>= ' + format(result['bound_qps'], '.2f'):>21}" in text
    assert f"\nfcfs{result['capacity_qps']['fcfs']:>20.2f}" in text
    assert f"\nbound{result['bound_qps']:>19.2f}" in text
    about_ceiling, about_length = result["notes"]
    assert "no load above the bound was tried" in about_ceiling
    seconds = 40 / result["bound_qps"]
    assert about_length.startswith(f"requests arrived for {seconds:.0f} s, the longest promise is 1800 s; ")
    assert text.endswith(f"\nnote: {about_ceiling}\nnote: {about_length}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max-late 1", "--max-late: 1 is no share; allowed: 0 to below 1"),
        ("--jobs 0", "--jobs: '0' is not allowed; give a whole number >= 1, or all"),
        ("--resolution 0", "--resolution: 0 is not allowed"),
        ("--chunks 256,many", "--chunks: 'many' is no chunk; allowed: tokens per step, >= 1"),
        ("--policies edf,best", "policy: 'best' is unknown; allowed: edf, fcfs"),
        ("--criterion loose", "--criterion: 'loose' is unknown; allowed: strict, paper, artifact"),
        ("--trace none.csv", "none.csv: no such trace"),
        ("--mix chat=1", "class: 'chat' is not in the QoS book"),
        ("--mix chat", "--mix: 'chat' is no weight; allowed: NAME=NUMBER"),
        ("--profile h100", "profile: 'h100' is unknown"),
        ("--kv-tokens 0", "num_kv_tokens: 0 is not allowed"),
        ("--hours 0", "--hours: 0 is not a duration"),
        ("--requests 0", "--requests: 0 is none"),
        ("--requests 9 --hours 1", "--requests and --hours: both are given; allowed: one of them"),
        ("--arrivals diurnal:0.5:1e9", "--arrivals: 'diurnal:0.5:1e9' has a period of more than a year"),
    ],
)
def test_capacity_command_refuses_bad_input_in_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capacity", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("num_replicas", [1, 3])
@pytest.mark.parametrize(("qps", "max_late"), [(1.0, 0.01), (9.0, 0.01), (9.0, 0.3), (9.0, 0.99)])
def test_attempt_counts_who_is_overdue_and_agrees_with_the_whole_run(
    num_replicas: int, qps: float, max_late: float
) -> None:
    """Short promises and an overload: those set aside are late long before they are served."""
    classes = {"fast": QosClass("fast", Slo(ttft_s=2.0)), "slow": QosClass("slow", Slo(ttlt_s=8.0))}
    workload = Workload(
        name="t", lengths=load_lengths("azure-code"), book=QosBook("fast", classes), arrivals=poisson
    )
    arrivals = list(workload.requests(qps * num_replicas, 300))
    setup = Setup(policy="niyama", num_replicas=num_replicas)
    whole = late_share(simulate(setup, arrivals).served, "strict")
    found = attempt(setup, arrivals, max_late)
    assert found.is_met is (max(whole["fast"], whole["slow"]) <= max_late)
    for name, share in found.late_share.items():
        assert share <= whole[name]
        assert not found.is_complete or share == whole[name]


@pytest.mark.parametrize("most", [1, 7, 50])
def test_a_search_around_a_start_finds_what_a_bisection_would(most: int) -> None:
    def probe_at(highest: int, tried: list[int], point: int) -> Probe:
        tried.append(point)
        return Probe("", float(point), point <= highest, {}, True)

    for highest in range(most + 1):
        for start in (0, 1, most // 2, most, most + 5):
            tried: list[int] = []
            search = search_around(partial(probe_at, highest, tried), most, start)
            assert search.low == highest
            assert len(set(tried)) == len(tried) <= 14
