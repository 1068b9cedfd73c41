"""A server with an API key, n-gram speculation and very little KV cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.engine.httpserver import Server, wait_until
from tests.engine.rig import Rig
from tests.engine.traces import check_step_log, read_step_log
from tests.engine.workload import asks

pytestmark = pytest.mark.engine


def test_preempted_speculating_requests_match_stock_vllm(pressed_server: Server, rig: Rig) -> None:
    workload = asks(16, prompts=(20, 60), outputs=(120, 200), seed=6)
    rig.use_stock()
    rig.run(workload)
    expected = [rig.outputs[ask.name].outputs[0].text for ask in workload]

    def complete(number: int) -> str:
        ask = workload[number]
        answer = pressed_server.complete(
            prompt=list(ask.prompt), max_tokens=ask.max_tokens, vllm_xargs={"niyama_class": ask.qos_class}
        )
        text: str = answer["choices"][0]["text"]
        return text

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(complete, range(16))) == expected
    state = pressed_server.state()
    assert state["realised"]["preempted"] > 0
    assert state["fallback_steps"] == 0
    steps = read_step_log(pressed_server.step_log_path)
    check_step_log(steps)
    if "--speculative-config" in pressed_server.options:
        assert _metric(pressed_server, "vllm:spec_decode_num_accepted_tokens_total") > 0


def _metric(server: Server, name: str) -> float:
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def test_nothing_is_left_after_preemption_and_speculation(pressed_server: Server) -> None:
    wait_until(lambda: pressed_server.live_requests() == 0, "all are gone")
    assert pressed_server.state()["kv_usage"] == 0


@pytest.mark.parametrize("path", ["/niyama/state", "/niyama/classes", "/v1/models"])
def test_key_is_asked_for(pressed_server: Server, path: str) -> None:
    assert httpx.get(pressed_server.url + path, trust_env=False).status_code == 401
    wrong = {"authorization": "Bearer wrong"}
    assert httpx.get(pressed_server.url + path, headers=wrong, trust_env=False).status_code == 401
    assert pressed_server.http.get(path).status_code == 200
