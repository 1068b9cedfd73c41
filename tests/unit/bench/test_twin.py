from __future__ import annotations

import dataclasses
import random

import pytest
from tests.unit.bench.recorded import LIMITS, TRUTH, arrivals, header, record, start

from niyama.bench.calibrate import Source, calibrate, clean_steps
from niyama.bench.machinespeed import MachineSpeed
from niyama.bench.recordedrun import RecordedRun, RunError, join
from niyama.bench.records import Record
from niyama.bench.replay import errors, figures, replay
from niyama.bench.replayreport import describe
from niyama.bench.serverlog import Step
from niyama.bench.twin import Sent, requests_of, serve, twin_of
from niyama.latency import OnlineModel
from niyama.latency.calibrated import StepTime
from niyama.latency.profilefile import Calibration, Delay, HandOn, Overheads
from niyama.latency.spread import Spread
from niyama.latency.stepfit import REGIMES, Sample, fit_steps
from niyama.scheduling.policy import BatchShape
from niyama.scheduling.recording import Recorded
from niyama.scheduling.registry import make_policy
from niyama.sim.live import ReplicaLimits


def leaves(figures: object) -> list[float]:
    if isinstance(figures, dict):
        return [leaf for value in figures.values() for leaf in leaves(value)]
    return [] if figures is None else [figures]  # type: ignore[list-item]


@pytest.mark.parametrize("policy", ["niyama", "paper", "fcfs"])
def test_a_simulated_run_is_reproduced_exactly(policy: str) -> None:
    run = record(arrivals(120, 8.0), policy)
    twin = twin_of(run, Calibration("truth", TRUTH), seed=3)
    assert twin.token_at == {record.id: record.token_at for record in run.records}
    replayed = replay(run, Calibration("truth", TRUTH), repeats=1)
    assert replayed.report["error"]["steps"] == 0
    assert all(leaf == 0 for leaf in leaves(replayed.report["error"]))
    assert replayed.report["left_out"] == 0


def test_a_run_on_a_warm_server_starts_with_what_the_server_had_learned() -> None:
    """The first half of the requests are another run's; the twin serves the second half alone."""
    requests = arrivals(120, 8.0)
    first, last = requests[:60], requests[60:]
    pause = 60.0  # so that the first run is over
    late = [
        arrival._replace(
            request=dataclasses.replace(arrival.request, arrived_at=arrival.request.arrived_at + pause)
        )
        for arrival in last
    ]
    whole = record([*first, *late])
    names = {arrival.request.request_id.split("-")[2] for arrival in late}
    part = join("second", whole.header, [r for r in whole.records if r.id in names], whole.calls)
    twin = twin_of(part, Calibration("truth", TRUTH), seed=0)
    assert twin.token_at == {record.id: record.token_at for record in part.records}
    assert len(part.steps) == len(twin.log.steps) < len(whole.log.steps)


def test_a_slower_machine_is_slower_in_the_report() -> None:
    run = record(arrivals(80, 8.0))
    report = replay(run, Calibration("slow", TRUTH.scaled(2.5)), repeats=1).report
    assert report["error"]["ttlt_s"]["all"]["p50"] > 0.3
    assert (
        report["simulated"]["attainment"]["strict"]["chat"]
        < report["measured"]["attainment"]["strict"]["chat"]
    )


SPREAD = Spread.of([random.Random(f"{n}").lognormvariate(0.0, 0.15) for n in range(2000)])
WIRE = Overheads(
    send=Delay(2e-3, 1e-5, 1e-6, SPREAD),
    take=Delay(3e-3, spread=SPREAD),
    token=HandOn(Delay(1e-3, 2e-4, spread=SPREAD), Delay(5e-4), 0.5),
)


REALITY = Calibration("reality", TRUTH, {regime: SPREAD for regime in REGIMES}, overheads=WIRE)


def noisy(num_requests: int, qps: float, seed: int, speed: MachineSpeed | None = None) -> RecordedRun:
    """Record a server with noisy steps behind a network and an HTTP server."""
    requests = arrivals(num_requests, qps, seed)
    sent = [
        Sent(a.request.request_id.split("-")[2], a.request.arrived_at, a.request, a.num_output_tokens)
        for a in requests
    ]
    calls = [start()]
    policy = Recorded(make_policy("niyama", OnlineModel()), calls.append)
    twin = serve(policy, sent, REALITY, LIMITS, seed, speed=speed)
    records = [
        Record(
            id=one.record_id,
            qos_class=one.request.qos_class,
            num_prompt_tokens=one.request.num_prompt_tokens,
            num_output_tokens=one.num_output_tokens,
            due_at=one.sent_at,
            sent_at=one.sent_at,
            token_at=twin.token_at[one.record_id],
        )
        for one in sent
    ]
    return join(f"noisy {qps:g}", header(), records, calls)


def test_a_calibrated_twin_is_as_good_as_one_that_knows_the_truth() -> None:
    """A noisy run is not reproduced exactly by anything, so the measure is the twin with the true costs."""
    known = [noisy(250, qps, seed) for qps, seed in ((5.0, 1), (9.0, 2))]
    calibration = calibrate([Source(run.name, clean_steps(run.steps), run) for run in known], "noisy")
    assert calibration.errors["all"]["bias_share"] == pytest.approx(0.0, abs=0.02)
    for qps, factor in ((7.0, 1.0), (10.0, 2.0)):
        run = noisy(300, qps, 7)
        truth, twin = (replay(run, one, repeats=4).report for one in (REALITY, calibration))
        error = errors(truth["simulated"], twin["simulated"])
        for percent in ("p50", "p90", "p99"):
            assert abs(error["ttlt_s"]["all"][percent]) < 0.07 * factor
        for percent in ("p50", "p90"):
            assert abs(error["ttft_s"]["all"][percent]) < 0.15 * factor
        assert all(abs(share) < 0.02 * factor for share in error["attainment"]["strict"].values())
        assert abs(error["steps"]) < 0.03
        assert abs(twin["error"]["ttlt_s"]["all"]["p50"]) < 0.07 * factor


def test_a_machine_that_changes_its_speed_is_followed() -> None:
    shape = BatchShape(256, 16, 4000)
    slowness = {0.0: 0.8, 10.0: 1.3, 20.0: 1.0, 30.0: 1.4}
    drift = MachineSpeed(
        [Step(shape, at, at + k * TRUTH.predict_s(shape), 16, is_clean=True) for at, k in slowness.items()],
        TRUTH,
    )
    run = noisy(300, 7.0, 7, drift)
    usual, own = (replay(run, REALITY, repeats=4, wants_own_speed=wanted).report for wanted in (False, True))
    assert usual["own_speed"] is None
    assert own["own_speed"]["fastest"] == pytest.approx(0.8, abs=0.1)
    assert own["own_speed"]["slowest"] == pytest.approx(1.4, abs=0.1)
    for percent in ("p50", "p90"):
        assert usual["error"]["ttlt_s"]["all"][percent] < -0.1
        assert abs(own["error"]["ttlt_s"]["all"][percent]) < 0.07
    assert "At the machine's own speed" in describe(own)
    assert "--own-speed" in describe(usual)


def test_the_same_seed_gives_the_same_report() -> None:
    run = noisy(80, 7.0, 1)
    calibration = calibrate([Source("run", clean_steps(run.steps), run)], "x")
    reports = [replay(run, calibration, seed=seed, repeats=1).report for seed in (4, 4, 5)]
    assert reports[0] == reports[1]
    assert reports[0]["simulated"] != reports[2]["simulated"]


def test_steps_of_known_cost_are_fitted() -> None:
    draw = random.Random(0)
    samples = []
    for _ in range(1500):
        shape = BatchShape(0, draw.randint(1, 60), 0)._replace(decode_context=draw.randint(100, 20_000))
        if draw.random() < 0.4:
            shape = shape.with_chunk(draw.randint(1, 1500), draw.randint(0, 2000))
        is_straggler = draw.random() < 0.01
        samples.append(
            Sample(shape, TRUTH.predict_s(shape) * (6.0 if is_straggler else draw.gauss(1.0, 0.05)))
        )
    fitted = fit_steps(samples)
    extra = sum(s.duration_s for s in samples) / sum(TRUTH.predict_s(s.shape) for s in samples)
    for shape, _ in samples[::10]:
        assert fitted.predict_s(shape) == pytest.approx(extra * TRUTH.predict_s(shape), rel=0.05)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps: 49 are too few to fit"):
        fit_steps([Sample(BatchShape(1, 0), 0.1)] * 49)


def test_errors_are_relative_but_for_attainment() -> None:
    real = {"attainment": {"strict": {"all": 0.9}}, "ttft_s": {"all": {"p50": 2.0, "p99": None}}, "steps": 10}
    twin = {"attainment": {"strict": {"all": 0.8}}, "ttft_s": {"all": {"p50": 1.0, "p99": 3.0}}, "steps": 11}
    found = errors(real, twin)
    assert found["attainment"]["strict"]["all"] == pytest.approx(-0.1)
    assert found["ttft_s"]["all"] == {"p50": -0.5, "p99": None}
    assert found["steps"] == pytest.approx(0.1)


def test_requests_without_a_token_are_left_out_and_counted() -> None:
    run = record(arrivals(40, 5.0))
    run.records[3] = dataclasses.replace(run.records[3], token_at=[], error="HTTP 500")
    assert run.records[3].id not in {one.record_id for one in requests_of(run)}
    report = replay(run, Calibration("truth", TRUTH), repeats=1).report
    assert (report["requests"], report["left_out"]) == (39, 1)


def test_records_of_another_server_are_refused() -> None:
    run = record(arrivals(20, 5.0))
    strangers = [dataclasses.replace(record, id=f"x{record.id}") for record in run.records]
    with pytest.raises(RunError, match="knows none of the 20 requests of run 'nb01'"):
        join("other", run.header, strangers, run.calls)


def test_a_client_elsewhere_is_placed_by_the_wall_clock() -> None:
    run = record(arrivals(20, 5.0))
    elsewhere = dataclasses.replace(run.header, started_monotonic=9e6)
    assert join("elsewhere", elsewhere, run.records, run.calls).begins_at == 0.0
    wrong = dataclasses.replace(elsewhere, started_at=7e8)
    with pytest.raises(RunError, match="the clocks of client and server disagree"):
        join("wrong", wrong, run.records, run.calls)


def test_machines_booted_one_after_the_other_are_placed_by_the_wall_clock() -> None:
    """The client's monotonic clock is 200 s behind the server's, so every request would seem to take long."""
    run = record(arrivals(20, 5.0))
    later = dataclasses.replace(run.header, started_monotonic=-200.0)
    assert join("later", later, run.records, run.calls).begins_at == 0.0
    near = dataclasses.replace(run.header, started_at=run.header.started_at + 0.3)
    assert join("near", near, run.records, run.calls).begins_at == 0.0, "one machine, by its monotonic clock"


def test_a_clock_that_says_nothing_gives_way_to_the_other() -> None:
    run = record(arrivals(20, 5.0))
    reset = [{**run.calls[0], "wall_at": 5e8 - 50.0}, *run.calls[1:]]
    assert join("reset", run.header, run.records, reset).begins_at == 0.0, "the wall clock was set meanwhile"
    assert join("no start", run.header, run.records, run.calls[1:]).begins_at == 0.0


def test_a_twin_has_blocks_of_the_size_of_its_server() -> None:
    """KV is short, so whom there is room for depends on the size of a block."""
    limits = ReplicaLimits(num_kv_tokens=6144, max_num_seqs=64, max_num_batched_tokens=1024, block_tokens=256)
    run = record(arrivals(120, 6.0, seed=1), limits=limits)
    calibration = Calibration("truth", TRUTH)
    measured = {record.id: record.token_at for record in run.records}
    assert twin_of(run, calibration, seed=0).token_at == measured
    run.calls[0]["engine"]["block_tokens"] = 16
    assert twin_of(run, calibration, seed=0).token_at != measured
    del run.calls[0]["engine"]["block_tokens"]
    with pytest.raises(RunError, match="simulated: engine: block_tokens: missing in the decision log"):
        twin_of(run, calibration, seed=0)


def test_figures_of_no_steps_have_no_chunks() -> None:
    found = figures([], [])
    assert (found["steps"], found["mean_batch"], found["chunk_tokens"]["p50"]) == (0, None, None)


def test_slopes_that_would_reward_longer_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="prefill: -1e-05 is not a cost; give a finite number >= 0"):
        dataclasses.replace(TRUTH, prefill=(-1e-5, *TRUTH.prefill[1:]))
    assert StepTime.from_mapping(TRUTH.to_mapping()) == TRUTH
