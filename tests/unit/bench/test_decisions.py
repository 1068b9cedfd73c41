from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.bench.recorded import arrivals, record, start

from niyama.bench.decisions import DecisionLogError, parse_calls, parts_of, read_calls
from niyama.bench.serverlog import ServerLog
from niyama.engines.vllm.decisionlog import DecisionLog
from niyama.engines.vllm.steplog import StepLog
from niyama.latency import OnlineModel
from niyama.qos import Importance, Slo
from niyama.scheduling.policy import Request
from niyama.scheduling.recording import request_from_mapping, request_to_mapping, tell
from niyama.scheduling.registry import make_policy
from niyama.settings import Settings

FRESH = json.dumps({"call": "fresh"}) + "\n"
START = json.dumps(start()) + "\n"
TORN = '{"call": "plan", "now'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "log: empty; give the file that a server wrote with --decision-log"),
        (["x\n"], "log:1: not JSON: "),
        (["[1]\n"], "log:1: a list: a line is an object with `call`, one of start, fresh, arrive"),
        ([FRESH], "log:1: call: 'fresh' comes before `start`; is this the whole log?"),
        (
            [START.replace('"version": 1', '"version": 7')],
            "version 7 is unknown; allowed: 'niyama-decisions'",
        ),
        ([START, '{"call": "depart", "now_s": 1.0}\n'], "log:2: request_id: missing in a call 'depart'"),
        # Torn is what was cut off where a server ended, and nothing else.
        ([START, TORN + "\n", FRESH], "log:2: not JSON: "),
        ([START, TORN + "\n", TORN + "\n", START], "log:2: not JSON: "),
        ([START, TORN + "\n"], "log:2: not JSON: "),
        ([START, '{"call": "depart"}\n', START], "log:2: now_s: missing in a call 'depart'"),
        ([TORN], "log: empty; give the file that a server wrote"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(lines: list[str], message: str) -> None:
    with pytest.raises(DecisionLogError) as caught:
        list(parse_calls(lines, "log"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    log.write_text(START + FRESH + '{"call": "plan", "now')
    assert [call["call"] for call in read_calls(log)] == ["start", "fresh"]


@pytest.mark.parametrize("ends", [TORN, "", TORN + "\n", "\n\n"], ids=["torn", "whole", "ended", "blank"])
def test_a_server_appends_to_what_a_killed_one_left(tmp_path: Path, ends: str) -> None:
    log = tmp_path / "decisions.jsonl"
    DecisionLog(str(log), Settings(), {"block_tokens": 16}).close()
    with log.open("a") as file:
        file.write(FRESH + ends)
    DecisionLog(str(log), Settings(), {"block_tokens": 128}).close()
    calls = list(read_calls(log))
    assert [call["call"] for call in calls] == ["start", "fresh", "start"]
    assert [part[0]["engine"]["block_tokens"] for part in parts_of(calls)] == [16, 128]


def test_a_step_log_goes_on_in_a_line_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "steps.jsonl"
    for _ in range(2):
        steps = StepLog(str(log))
        steps.write_line({"at": 1.0})
        steps.write_line({"at": 2.0})
        steps.close()
        with log.open("a") as file:
            file.write('{"at"')
    assert log.read_text() == '{"at": 1.0}\n{"at": 2.0}\n{"at"\n{"at": 1.0}\n{"at": 2.0}\n{"at"'


def test_a_request_keeps_every_field() -> None:
    request = Request(
        "r", 1.25, Slo(1.0, None, 3.0), 7, 9, "chat", "acme", Importance.LOW, -2, 5, expected_output_tokens=4
    )
    assert request_from_mapping(json.loads(json.dumps(request_to_mapping(request)))) == request


def test_an_outcome_without_a_launch_is_refused() -> None:
    call = {"call": "observe", "started_at": 0, "ended_at": 1, "completed": [], "extra_tokens": {}}
    with pytest.raises(ValueError, match="observe: no step is in flight"):
        tell(make_policy("niyama", OnlineModel()), {**call, "is_clean": True})


def test_the_log_knows_the_step_of_every_token() -> None:
    run = record(arrivals(50, 9.0))
    by_id = {one.id: one for one in run.records}
    for name, seen in run.seen.items():
        ends = [run.log.steps[number].ended_at for number in seen.steps_of_tokens()]
        assert ends == by_id[name].token_at
        assert sum(seen.chunks) == seen.request.num_prompt_tokens
    assert sum(step.num_tokens for step in run.steps) == sum(len(one.token_at) for one in run.records)


def test_stalls_and_preemptions_part_the_tokens_of_a_request() -> None:
    request = request_to_mapping(Request("r", 0.0, Slo(), 10, 9))
    log = ServerLog()
    log.take({"call": "arrive", "now_s": 0.0, "request": request})
    steps: list[tuple[list[list[Any]], list[str], list[str], list[str]]] = [
        ([["r", 10, 10, 0]], [], [], ["r"]),
        ([], [], [], []),
        ([], ["r"], [], []),
        ([], [], [], []),
        ([["r", 3, 3, 10]], [], ["r"], []),
        ([["r", 10, 13, 0]], [], [], ["r"]),
    ]
    for number, (prefills, stalled, preempted, completed) in enumerate(steps):
        num_prefill = sum(done[1] for done in prefills)
        shape = [num_prefill, 0 if prefills or stalled else 1, 0, 0, 0.0]
        log.take(
            {"call": "begin", "at": 0.0, "prefills": prefills, "shape": shape}
            | {"stalled": stalled, "preempted": preempted}
        )
        ends = {"started_at": number, "ended_at": number + 1, "completed": completed}
        log.take({"call": "observe", **ends, "extra_tokens": {}, "is_clean": True})
    log.take({"call": "depart", "now_s": 6.0, "request_id": "r", "finished": True})
    assert list(log.requests["r"].steps_of_tokens()) == [0, 1, 3, 5]
