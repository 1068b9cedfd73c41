"""A server with an API key, n-gram speculation and very little KV cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import httpx
import pytest
from tests.engine.httpserver import Server, wait_until
from tests.engine.rig import Rig
from tests.engine.traces import check_step_log, read_step_log
from tests.engine.workload import CLASSES, asks

pytestmark = pytest.mark.engine


def test_preempted_speculating_requests_match_stock_vllm(pressed_server: Server, rig: Rig) -> None:
    """All prompts of a class are one body, so that they are in at once, however slow the machine is."""
    workload = asks(16, prompts=(20, 60), outputs=(160, 160), seed=6)
    rig.use_stock()
    rig.run(workload)

    def complete(qos_class: str) -> None:
        chosen = [ask for ask in workload if ask.qos_class == qos_class]
        prompts = [list(ask.prompt) for ask in chosen]
        answer = pressed_server.complete(
            prompt=prompts, max_tokens=160, vllm_xargs={"niyama_class": qos_class}
        )
        texts = [choice["text"] for choice in sorted(answer["choices"], key=itemgetter("index"))]
        assert texts == [rig.outputs[ask.name].outputs[0].text for ask in chosen]

    with ThreadPoolExecutor() as pool:
        list(pool.map(complete, CLASSES))
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
