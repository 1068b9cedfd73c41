"""Everything but the command line, against a server on loopback."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.bench.sseserver import Reply, Script, SseServer, answer_fully, prompt_tokens, sse_server

from niyama.bench.carriers import make_carrier
from niyama.bench.client import Flight, Rules, run, run_async
from niyama.bench.measure import Measured, Spec, measure
from niyama.bench.planned import Lengths, Plan, Planned
from niyama.bench.prompts import PromptMaker, learn_vocabulary
from niyama.bench.report import report_html
from niyama.bench.saturation import Saturation, saturate
from niyama.bench.sender import ClientError, open_session
from niyama.bench.servermetrics import read_counters, server_figures
from niyama.bench.summary import describe
from niyama.bench.target import find_target
from niyama.qos import QosBook, QosClass, Slo, paper_book
from niyama.workload.arrivals import parse_arrivals, poisson
from niyama.workload.generate import Workload, load_lengths


def spec(url: str, **changes: Any) -> Spec:
    workload = Workload(
        name="azure-conv", lengths=load_lengths("azure-conv"), book=paper_book(), arrivals=poisson, seed=1
    )
    usual = Spec(
        url=url,
        workload=workload,
        qps=200.0,
        num_requests=30,
        lengths=Lengths(scale=0.05),
        num_warmup=2,
        rules=Rules(max_lag_s=60.0),
        carrier="header",
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def done() -> Measured:
    with sse_server() as server:
        return run_async(measure(spec(server.url)))


def test_every_request_is_served_as_planned(done: Measured) -> None:
    result = done.result
    assert result["valid"]
    assert (result["requests"], result["errors"]["count"]) == (30, 0)
    assert result["lengths"]["prompt_off_share"] == result["lengths"]["output_off_share"] == 0
    assert set(result["late_share"]) == {"all", "background", "batch", "interactive"}
    assert result["relegated_share"] is None
    assert done.header.versions["vllm"] == "0.32.0"
    assert {record.carrier for record in done.flight.records} == {"header"}
    json.dumps(result, allow_nan=False)


def test_no_two_prompts_begin_alike_and_warm_up_is_not_scored() -> None:
    with sse_server() as server:
        run_async(measure(spec(server.url)))
        prompts = [tuple(body["prompt"][:16]) for body in server.seen]
        salts = [body.get("cache_salt") for body in server.seen[-32:]]
    assert len(prompts) - 32 == 1  # the probe, two to warm up, thirty
    assert len(set(prompts)) == len(prompts)
    assert len(set(salts)) == 2
    assert salts.count(salts[-1]) == 30


def test_context_of_the_model_is_respected_and_said(done: Measured) -> None:
    with sse_server() as server:
        cut = run_async(measure(spec(server.url, lengths=Lengths(scale=100.0, max_output=5), num_requests=3)))
        lengths = [prompt_tokens(body) + body["max_tokens"] for body in server.seen]
    assert max(lengths) <= 4096
    assert cut.result["workload"]["cut_share"] == 1
    assert "100.0% of the requests had their lengths cut" in describe(cut.result)
    assert "lengths of the trace times 0.05" in describe(done.result)


def test_load_is_a_share_of_what_the_server_sustains() -> None:
    with sse_server() as server:
        changes = {"qps": None, "load": 0.5, "saturation_s": 1.0, "saturation_in_flight": 4}
        result = run_async(measure(spec(server.url, **changes))).result
    workload = result["workload"]
    assert workload["saturation_qps"] > 0
    assert workload["qps"] == pytest.approx(0.5 * workload["saturation_qps"])
    assert f"(load 0.5 of {workload['saturation_qps']:.2f}/s)" in describe(result)


async def answer_a_quarter(reply: Reply) -> None:
    await asyncio.sleep(0.02)
    await reply.tokens(*range(1, reply.body["max_tokens"] // 4 + 1))


async def never_end(reply: Reply) -> None:
    for num_tokens in itertools.count(1):
        await reply.send(reply.event(num_tokens))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("script", "is_vllm", "mean_served"),
    [(answer_fully, True, 10.0), (answer_a_quarter, False, 2.5), (never_end, False, 10.0)],
)
def test_what_is_sustained_is_counted_in_answers_as_long_as_they_are(
    script: Script, is_vllm: bool, mean_served: float
) -> None:
    requests = [
        Planned(id=f"r{num}", due_at=0, num_prompt_tokens=4, num_output_tokens=num, qos_class="interactive")
        for num in (4, 16)
    ]

    async def work(server: SseServer) -> Saturation:
        async with open_session() as session:
            target = await find_target(session, server.url, model=None, endpoint="completions", api_key=None)
            maker = PromptMaker(target, await learn_vocabulary(session, target), seed=1)
            server.script = script
            carry = make_carrier("none", paper_book())
            return await saturate(
                session, target, Plan(requests, 0), maker, carry, num_in_flight=2, seconds=0.6
            )

    with sse_server(is_vllm=is_vllm) as server:
        found = run_async(work(server))
    assert found.output_tps / found.qps == pytest.approx(mean_served)


@pytest.mark.parametrize(("num_requests", "is_short"), [(10, True), (20, False)])
def test_a_run_of_less_than_a_period_says_so(num_requests: int, is_short: bool) -> None:
    arrivals = parse_arrivals("square:1:3:0.05", [])
    with sse_server() as server:
        asked = spec(server.url, num_requests=num_requests)
        result = run_async(
            measure(replace(asked, workload=replace(asked.workload, arrivals=arrivals)))
        ).result
    assert (result["workload"]["asked_s"], result["workload"]["period_s"]) == (num_requests / 200, 0.1)
    text = describe(result)
    assert ("less than a period of the arrivals, 0.1 s: the mean rate is not --qps" in text) is is_short
    assert "an overloaded server needs about three times that long to be late" in text


async def refuse(reply: Reply) -> None:
    """Take the probe and refuse everything else."""
    if reply.body["max_tokens"] == 2 and reply.headers.get("x-request-id") is None:
        await reply.tokens(1, 2)
    else:
        await reply.refuse(503, {"error": {"message": "busy"}})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "a warm-up request failed: HTTP 503: busy"),
        (
            {"num_warmup": 0, "qps": None, "load": 1.0, "saturation_in_flight": 4},
            "what the server sustains: HTTP 503: busy",
        ),
        ({"num_warmup": 0, "num_requests": None, "seconds": 1e-9}, "no request arrives in 1e-09 s"),
    ],
)
def test_what_fails_before_the_run_is_one_line(changes: dict[str, Any], said: str) -> None:
    with sse_server(script=refuse) as server, pytest.raises(ClientError) as failure:
        run_async(measure(spec(server.url, **changes)))
    assert said in str(failure.value)


def test_a_run_of_nothing_but_errors_still_has_a_report() -> None:
    rules = Rules(max_lag_s=60.0, max_consecutive_errors=5)
    with sse_server(script=refuse) as server:
        done = run_async(measure(spec(server.url, num_warmup=0, rules=rules)))
    assert not done.result["valid"]
    assert "INVALID: stopped after 5 errors in a row" in describe(done.result)
    assert "INVALID" in report_html(done.header, done.flight.records, done.result)


def test_report_stands_alone(done: Measured, tmp_path: Path) -> None:
    page = report_html(done.header, done.flight.records, done.result)
    assert page.count("data:image/svg+xml;base64,") == 3
    assert {link[:5] for link in re.findall(r"(?:src|href)=[\"']?(.{5})", page)} == {"data:"}
    for text in ("interactive", "azure-conv", "0.32.0", "seed", done.header.run_id):
        assert text in page


def test_report_escapes_what_comes_from_outside(done: Measured) -> None:
    result = {**done.result, "invalid_because": ["<script>alert(1)</script>"]}
    assert "<script>" not in report_html(done.header, done.flight.records, result)


def test_answers_of_another_class_are_said(done: Measured) -> None:
    assert done.result["served_class_off_share"] == 1.0, "the server calls every class `seen`"
    said = "100.0% of the answers were served in another class than asked"
    assert said in describe(done.result)
    for share in (0.0, None):
        assert said[5:] not in describe({**done.result, "served_class_off_share": share})


def test_summary_has_a_line_per_class(done: Measured) -> None:
    text = describe(done.result)
    lines = {line.split(" ")[0]: line for line in text.splitlines()}
    for name in ("all", "interactive", "batch", "background"):
        assert "%" in lines[name]
    assert "us of CPU per token" in lines["client:"]


METRICS = """
# HELP niyama_requests_total Requests
niyama_requests_total{engine="0",model_name="m",outcome="met",qos_class="chat"} 10.0
niyama_requests_total{engine="0",model_name="m",outcome="missed",qos_class="chat"} 2.0
niyama_relegated_requests_finished_total{engine="0",model_name="m",outcome="missed",qos_class="chat"} 1.0
niyama_requests_created{engine="0"} 1e9
vllm:prefix_cache_queries_total{engine="0"} 400.0
vllm:prefix_cache_hits_total{engine="0"} 100.0
vllm:num_preemptions_total{engine="0"} 3.0
"""


def test_server_figures_are_what_grew_over_the_run() -> None:
    after = read_counters(METRICS)
    before = read_counters(
        METRICS.replace("} 10.0", "} 8.0").replace("} 400", "} 200").replace("} 100", "} 90")
    )
    figures = server_figures(before, after)
    assert figures["relegated_share"] == 0
    assert figures["prefix_cache_hit_share"] == pytest.approx(10 / 200)
    assert figures["preemptions"] == 0
    figures = server_figures({}, after)
    assert figures["relegated_share"] == pytest.approx(1 / 12)
    assert figures["relegated_share_by_class"] == {"chat": pytest.approx(1 / 12)}
    assert figures["preemptions"] == 3
    assert server_figures({}, {})["relegated_share"] is None


def test_a_load_that_was_not_measured_right_spoils_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Saturation] = []

    async def lagging(*args: Any, **options: Any) -> Saturation:
        found.append(await saturate(*args, **options))
        found[0].flight.loop_lags_s[:] = [90.0]
        return found[0]

    monkeypatch.setattr("niyama.bench.measure.saturate", lagging)
    with sse_server() as server:
        changes = {"qps": None, "load": 0.5, "saturation_s": 1.0, "saturation_in_flight": 4}
        result = run_async(measure(spec(server.url, **changes))).result
    assert not result["valid"]
    (reason,) = result["invalid_because"]
    assert reason.startswith("while load 1 was measured: the client fell behind: the client's event loop")
    assert result["client"]["loop_lag_s"]["p99"] != 90.0, "the client's figures are the run's"
    assert (found[0].flight.num_tokens > 0, found[0].flight.wall_s > 0.9) == (True, True)


def test_answers_may_take_four_times_the_longest_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float | None] = []

    async def watched(*args: Any, **options: Any) -> Flight:
        if "rules" in options:
            limits.append(options["rules"].answer_limit_s)
        return await run(*args, **options)

    monkeypatch.setattr("niyama.bench.measure.run", watched)
    book = QosBook("night", {"night": QosClass("night", Slo(ttlt_s=8 * 3600.0))})
    with sse_server() as server:
        usual = spec(server.url, num_requests=3)
        for workload in (usual.workload, replace(usual.workload, book=book)):
            run_async(measure(replace(usual, workload=workload)))
        given = replace(usual.rules, answer_limit_s=7.0)
        run_async(measure(replace(usual, rules=given)))
    assert limits == [7200.0, 115200.0, 7.0], "the paper's longest is 30 minutes"
