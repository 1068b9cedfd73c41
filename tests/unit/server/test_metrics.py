from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from niyama.server.metrics import (
    SLACK_BUCKETS_S,
    TBT_BUCKETS_S,
    TTFT_BUCKETS_S,
    TTLT_BUCKETS_S,
    BatchHistogram,
    Metrics,
)
from niyama.telemetry import Drain, SloState, State, Telemetry

SLOS: dict[str, SloState] = {
    "chat": {"ttft_s": 6.0, "tbt_s": 0.06, "ttlt_s": None},
    "batch": {"ttft_s": None, "tbt_s": None, "ttlt_s": 28800.0},
}
WHERE = {"model_name": "demo", "engine": "0"}
CHAT = {"qos_class": "chat", **WHERE}


def state_of(telemetry: Telemetry) -> State:
    return {
        "policy": "niyama",
        "emulated": None,
        "vllm_version": "0.0",
        "step": 1,
        "num_running": 2,
        "num_waiting": 3,
        "chunk_tokens": 64,
        "token_budget": 96,
        "alpha_s_per_token": 0.008,
        "load": 1.25,
        "kv_usage": 0.5,
        "step_model": {
            "coefficients": {"fixed": 0.002},
            "mean_abs_error_share": 0.1,
            "late_share": 0.03,
            "num_steps": 100,
        },
        "fallback_steps": 0,
        "realised": {},
        "classes": {
            name: {
                "queued": 4,
                "prefilling": 1,
                "decoding": 1,
                "held": 0,
                "relegated": 2,
                "tightest_slack_s": None,
                "slo": slo,
                "importance": "normal",
                **telemetry.totals(name),
            }
            for name, slo in SLOS.items()
        },
    }


def drained(telemetry: Telemetry) -> Drain:
    return {"state": state_of(telemetry), "events": telemetry.drain()}


class Server:
    """A telemetry and the metrics that it ends up in, on a registry of their own."""

    def __init__(self) -> None:
        self.telemetry = Telemetry(SLOS)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(SLOS, "demo", self.registry)

    def pass_on(self, engine: str = "0") -> None:
        answer = drained(self.telemetry)
        self.metrics.feed(engine, answer["events"], answer["state"])

    def value(self, sample: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"niyama_{sample}", labels)


@pytest.fixture
def server() -> Server:
    return Server()


def test_batch_histogram_equals_one_observation_at_a_time() -> None:
    pairs = [(0.05, 3), (0.1, 1), (0.10001, 2), (-4.0, 5), (1e9, 1), (1.0, 0)]
    buckets = (0.0, 0.05, 0.1, 1.0)
    batched, single = CollectorRegistry(), CollectorRegistry()
    BatchHistogram("gap", "", registry=batched, buckets=buckets).observe_many(pairs)
    one_by_one = BatchHistogram("gap", "", registry=single, buckets=buckets)
    for value, count in pairs:
        for _ in range(count):
            one_by_one.observe(value)
    for edge in ("0.0", "0.05", "0.1", "1.0", "+Inf"):
        labels = {"le": edge}
        assert batched.get_sample_value("gap_bucket", labels) == single.get_sample_value("gap_bucket", labels)
    assert batched.get_sample_value("gap_count") == 12
    assert batched.get_sample_value("gap_sum") == pytest.approx(single.get_sample_value("gap_sum"))


def test_batch_histogram_takes_a_count_no_loop_could() -> None:
    registry = CollectorRegistry()
    BatchHistogram("gap", "", registry=registry, buckets=(1.0,)).observe_many([(0.5, 10**15)])
    assert registry.get_sample_value("gap_count") == 10**15
    assert registry.get_sample_value("gap_sum") == 0.5 * 10**15


def test_first_feed_shows_every_class_and_outcome_at_zero(server: Server) -> None:
    server.pass_on()
    for name in SLOS:
        for outcome in ("met", "missed", "aborted"):
            assert server.value("requests_total", qos_class=name, outcome=outcome, **WHERE) == 0
        assert server.value("ttft_seconds_count", qos_class=name, **WHERE) == 0


def test_finished_requests_are_counted_by_outcome_and_measured(server: Server) -> None:
    server.telemetry.finished("chat", "met", 6.0, 9.0, 0.5, False)
    server.telemetry.finished("chat", "missed", 6.001, 9.5, -0.5, True)
    server.telemetry.finished("chat", "aborted", None, None, None, True)
    server.pass_on()
    by_outcome = [
        server.value("requests_total", outcome=outcome, **CHAT) for outcome in ("met", "missed", "aborted")
    ]
    relegated = [
        server.value("relegated_requests_finished_total", outcome=outcome, **CHAT)
        for outcome in ("met", "missed", "aborted")
    ]
    assert by_outcome == [1, 1, 1]
    assert relegated == [0, 1, 1]
    assert server.value("ttft_seconds_bucket", le="6.0", **CHAT) == 1
    assert server.value("ttft_seconds_bucket", le="7.5", **CHAT) == 2
    assert server.value("ttft_seconds_sum", **CHAT) == pytest.approx(12.001)
    assert server.value("ttlt_seconds_sum", **CHAT) == 18.5
    assert server.value("deadline_slack_seconds_bucket", le="0.0", **CHAT) == 1
    assert server.value("deadline_slack_seconds_bucket", le="-0.5", **CHAT) == 1
    assert server.value("deadline_slack_seconds_bucket", le="-1.0", **CHAT) == 0
    assert server.value("deadline_slack_seconds_count", **CHAT) == 2


def test_gaps_land_on_the_side_of_the_slo_where_they_belong(server: Server) -> None:
    server.telemetry.gaps("chat", 0.06, 300)
    server.telemetry.gaps("chat", 0.0601, 7)
    server.telemetry.tbt_violations("chat", 7)
    server.pass_on()
    assert server.value("tbt_seconds_bucket", le="0.06", **CHAT) == 300
    assert server.value("tbt_seconds_count", **CHAT) == 307
    assert server.value("tbt_seconds_sum", **CHAT) == pytest.approx(300 * 0.06 + 7 * 0.0601)
    assert server.value("tbt_violations_total", **CHAT) == 7


def test_scheduling_events_add_up_over_drains(server: Server) -> None:
    for _ in range(2):
        server.telemetry.relegated("chat")
        server.telemetry.restored("chat")
        server.telemetry.held("chat", 3)
        server.telemetry.sat_out("chat", 2)
        server.telemetry.unknown_class()
        server.telemetry.fallback()
        server.telemetry.realised("kv_pressure", 2)
        server.telemetry.step(math.nan, 0.01, 1)
        server.pass_on()
    assert server.value("relegated_total", **CHAT) == 2
    assert server.value("restored_total", **CHAT) == 2
    assert server.value("held_prefill_steps_total", **CHAT) == 6
    assert server.value("sat_out_decode_steps_total", **CHAT) == 4
    assert server.value("unknown_class_total", **WHERE) == 2
    assert server.value("fallback_steps_total", **WHERE) == 2
    assert server.value("plan_differences_total", cause="kv_pressure", **WHERE) == 4
    assert server.value("telemetry_dropped_total", **WHERE) == 2


def test_steps_fill_three_histograms(server: Server) -> None:
    server.telemetry.step(0.02, 0.03, 0)
    server.telemetry.step(0.04, 0.03, 512)
    server.pass_on()
    assert server.value("step_seconds_bucket", le="0.02", **WHERE) == 1
    assert server.value("step_seconds_sum", **WHERE) == pytest.approx(0.06)
    assert server.value("step_seconds_bucket", le="0.06", **WHERE) == 2
    assert server.value("predicted_step_seconds_bucket", le="0.03", **WHERE) == 2
    assert server.value("chunk_tokens_bucket", le="0.0", **WHERE) == 1
    assert server.value("chunk_tokens_sum", **WHERE) == 512


def test_gauges_follow_the_state(server: Server) -> None:
    server.pass_on()
    assert server.value("queue_depth", **CHAT) == 4
    assert server.value("relegated_requests", **CHAT) == 2
    assert server.value("alpha_seconds_per_token", **WHERE) == 0.008
    assert server.value("load_ratio", **WHERE) == 1.25
    assert server.value("step_error_ratio", **WHERE) == 0.1
    assert server.value("step_late_ratio", **WHERE) == 0.03


def test_policy_without_alpha_or_load_shows_neither(server: Server) -> None:
    answer = drained(server.telemetry)
    answer["state"]["alpha_s_per_token"] = answer["state"]["load"] = None
    server.metrics.feed("0", answer["events"], answer["state"])
    assert server.value("alpha_seconds_per_token", **WHERE) is None
    assert server.value("load_ratio", **WHERE) is None


def test_engines_are_told_apart(server: Server) -> None:
    server.telemetry.finished("chat", "met", 1.0, 2.0, 3.0, False)
    server.pass_on("1")
    server.pass_on("0")
    labels = {"qos_class": "chat", "outcome": "met", "model_name": "demo"}
    assert server.value("requests_total", engine="1", **labels) == 1
    assert server.value("requests_total", engine="0", **labels) == 0


def test_every_slo_is_a_bucket_edge(server: Server) -> None:
    server.pass_on()
    for sample, edge in (
        ("ttft_seconds_bucket", "6.0"),
        ("tbt_seconds_bucket", "0.06"),
        ("ttlt_seconds_bucket", "28800.0"),
        ("step_seconds_bucket", "0.06"),
    ):
        labels = WHERE if sample.startswith("step") else CHAT
        assert server.value(sample, le=edge, **labels) == 0


def test_buckets_ascend_and_slack_has_both_signs() -> None:
    for buckets in (TTFT_BUCKETS_S, TBT_BUCKETS_S, TTLT_BUCKETS_S, SLACK_BUCKETS_S):
        assert list(buckets) == sorted(set(buckets))
    assert 0.0 in SLACK_BUCKETS_S
    assert {-edge for edge in SLACK_BUCKETS_S} == set(SLACK_BUCKETS_S)


def test_unregister_frees_every_name(server: Server) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(SLOS, "demo", server.registry)
    server.metrics.unregister()
    assert list(server.registry.collect()) == []
    Metrics(SLOS, "demo", server.registry)


def test_several_api_processes_show_one_truth(tmp_path: Path) -> None:
    """The value classes are chosen when prometheus_client is imported, hence the child process."""
    child = """
from prometheus_client import CollectorRegistry, multiprocess
from test_metrics import Server, drained
server = Server()
for depth in (9, 5):
    server.telemetry.gaps("chat", 0.05, 3)
    answer = drained(server.telemetry)
    answer["state"]["classes"]["chat"]["queued"] = depth
    server.metrics.feed("0", answer["events"], answer["state"])
merged = CollectorRegistry()
multiprocess.MultiProcessCollector(merged)
labels = {"qos_class": "chat", "model_name": "demo", "engine": "0"}
print(merged.get_sample_value("niyama_tbt_seconds_count", labels),
      merged.get_sample_value("niyama_tbt_seconds_bucket", {**labels, "le": "0.06"}),
      merged.get_sample_value("niyama_queue_depth", labels))
"""
    path = [str(Path(__file__).parent), *sys.path]
    ran = subprocess.run(
        [sys.executable, "-c", child],
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["6.0", "6.0", "5.0"], ran.stderr
