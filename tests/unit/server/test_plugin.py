"""The HTTP side of the plugin on a small app; the engine tests run it on a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY

from niyama.server.plugin import (
    EngineLink,
    MetricsFeeder,
    NiyamaEndpoints,
    NotNiyamaError,
    SharedState,
    endpoint_plugin,
)
from niyama.telemetry import Telemetry

CHAT_SLO = {"ttft_s": 6.0, "tbt_s": 0.05, "ttlt_s": None}
MET = {"qos_class": "chat", "outcome": "met", "model_name": "demo", "engine": "0"}
PATIENCE_S = 20.0


class Engine:
    """An engine client as far as the plugin knows one, with a real telemetry behind it."""

    errored = False

    def __init__(self, scheduler_cls: str | None = "niyama.engines.vllm.scheduler") -> None:
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(served_model_name="demo"),
            scheduler_config=SimpleNamespace(scheduler_cls=scheduler_cls),
        )
        self.engine_core: Any = self
        self.telemetry = Telemetry(["chat"])
        self.failures: list[Exception] = []
        self.asked: list[str] = []
        self.drained = threading.Semaphore(0)

    async def call_utility_async(self, method: str, verb: str) -> object:
        assert method == "scheduler"
        self.asked.append(verb)
        if self.failures:
            raise self.failures.pop()
        state = {
            "alpha_s_per_token": 0.008,
            "load": None,
            "step_model": {"mean_abs_error_share": None, "late_share": None},
            "classes": {
                "chat": {"queued": 1, "relegated": 0, "slo": CHAT_SLO, "importance": "high"},
            },
        }
        if verb == "state":
            return state
        events = self.telemetry.drain()
        self.drained.release()
        return {"state": state, "events": events}

    def await_drains(self, number: int) -> None:
        for _ in range(number):
            assert self.drained.acquire(timeout=PATIENCE_S), "the plugin does not drain"


class Replicas(Engine):
    """Two engines behind one client, as vLLM has them with data parallelism."""

    engine_ranks_managed = (2, 3)

    async def call_utility_all_async(self, method: str, verb: str) -> list[object]:
        return [await self.call_utility_async(method, verb) for _ in self.engine_ranks_managed]


@contextmanager
def serving(engine: Engine | None, api_key: list[str] | None = None) -> Iterator[TestClient]:
    app, plugin = FastAPI(), endpoint_plugin()
    plugin.attach_router(app)
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(plugin.init_state, engine, app.state, Namespace(api_key=api_key))
        yield client


@pytest.fixture(autouse=True)
def no_key_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def test_plugin_module_imports_neither_vllm_nor_torch() -> None:
    code = (
        "import sys, niyama.server.plugin; print([m for m in ('vllm', 'torch', 'niyama.engines') "
        "if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_state_answers_each_engine_under_its_label() -> None:
    with serving(Engine()) as client:
        answer = client.get("/niyama/state").json()
    assert answer["model_name"] == "demo"
    assert list(answer["engines"]) == ["0"]
    assert answer["engines"]["0"]["classes"]["chat"]["queued"] == 1
    with serving(Replicas()) as client:
        assert list(client.get("/niyama/state").json()["engines"]) == ["2", "3"]


def test_classes_answers_names_and_promises() -> None:
    with serving(Engine()) as client:
        answer = client.get("/niyama/classes").json()
    assert answer["classes"] == [{"name": "chat", "importance": "high", "slo": CHAT_SLO}]


@pytest.mark.parametrize("path", ["/niyama/state", "/niyama/classes"])
@pytest.mark.parametrize(
    "header", [None, b"Bearer wrong", b"Bearer ", b"Basic one", b"one", b"Bearer one two", b"Bearer \xff\xfe"]
)
def test_route_with_a_key_set_refuses_a_request_without_it(path: str, header: bytes | None) -> None:
    engine = Engine()
    with serving(engine, ["one", "schlüssel"]) as client:
        headers = {} if header is None else {b"authorization": header}
        answer = client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"
    assert "state" not in engine.asked


@pytest.mark.parametrize("header", [b"Bearer one", b"bearer one", "Bearer schlüssel".encode()])
def test_route_with_a_key_set_takes_any_of_the_keys(header: bytes) -> None:
    with serving(Engine(), ["one", "schlüssel"]) as client:
        answer = client.get("/niyama/state", headers={b"authorization": header})
    assert answer.status_code == 200


def test_key_of_the_environment_holds_unless_the_option_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "env")
    header = {"authorization": "Bearer env"}
    with serving(Engine()) as client:
        assert client.get("/niyama/state").status_code == 401
        assert client.get("/niyama/state", headers=header).status_code == 200
    with serving(Engine(), ["option"]) as client:
        assert client.get("/niyama/state", headers=header).status_code == 401


def test_stock_scheduler_answers_503_and_is_never_called() -> None:
    engine = Engine(scheduler_cls=None)
    with serving(engine) as client:
        answer = client.get("/niyama/state")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "not_niyama"
    assert engine.asked == []


async def test_other_scheduler_class_is_told_by_its_refusal_and_asked_once() -> None:
    engine = Engine("their.Scheduler")
    engine.failures = [Exception("Call to scheduler method failed: <Scheduler> is not a callable object")]
    link = EngineLink(engine)
    for _ in range(2):
        with pytest.raises(NotNiyamaError, match="--scheduler-cls"):
            await link.ask("state")
    assert engine.asked == ["state"]


def test_engine_error_answers_503_with_its_text() -> None:
    engine = Engine()
    with serving(engine) as client:
        engine.await_drains(1)
        engine.failures = [RuntimeError("out of luck")] * 2
        answer = client.get("/niyama/state")
    assert answer.status_code == 503
    assert "out of luck" in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "engine_unavailable"


def test_server_without_engine_answers_503() -> None:
    with serving(None) as client:
        assert client.get("/niyama/state").status_code == 503


def test_finished_requests_reach_the_registry_and_leave_with_the_server() -> None:
    engine = Engine()
    engine.telemetry.finished("chat", "met", 1.0, 2.0, 3.0, False)
    with serving(engine):
        engine.await_drains(2)
        assert REGISTRY.get_sample_value("niyama_requests_total", MET) == 1
        assert REGISTRY.get_sample_value("niyama_ttft_seconds_bucket", _chat("le", "6.0")) == 1
    assert REGISTRY.get_sample_value("niyama_requests_total", MET) is None


def test_second_api_process_answers_state_and_drains_nothing() -> None:
    engine = Engine()
    engine.engine_core = SimpleNamespace(client_index=1, call_utility_async=engine.call_utility_async)
    with serving(engine) as client:
        assert client.get("/niyama/state").status_code == 200
    assert engine.asked == ["state"]


async def test_many_who_ask_at_once_cost_the_engine_one_answer() -> None:
    engine, may_answer = Engine(), asyncio.Event()
    answer = engine.call_utility_async

    async def answer_later(method: str, verb: str) -> object:
        await may_answer.wait()
        return await answer(method, verb)

    engine.call_utility_async = answer_later  # type: ignore[method-assign]
    state = SharedState(EngineLink(engine))
    first = asyncio.create_task(state.ask())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(state.ask()) for _ in range(50)]
    impatient = asyncio.create_task(state.ask())
    await asyncio.sleep(0)
    impatient.cancel()
    may_answer.set()
    assert await first == (await asyncio.gather(*later))[0]
    assert engine.asked == ["state", "state"], "theirs began after they asked"
    engine.failures = [RuntimeError("restarting")]
    with pytest.raises(RuntimeError, match="restarting"):
        await state.ask()
    assert (await state.ask())["0"]["classes"]["chat"]["queued"] == 1


async def test_feeder_survives_an_outage_and_logs_it_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    engine.telemetry.finished("chat", "met", 1.0, 2.0, 3.0, False)
    engine.failures = [RuntimeError("restarting")] * 3
    await _feed_until(engine, lambda: REGISTRY.get_sample_value("niyama_requests_total", MET) == 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert len(engine.asked) >= 4


async def test_feeder_stops_for_a_scheduler_that_is_not_ours(caplog: pytest.LogCaptureFixture) -> None:
    await MetricsFeeder(EngineLink(Engine(scheduler_cls=None)), period_s=0.001).run()
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


async def test_feeder_stops_when_the_engine_is_dead() -> None:
    engine = Engine()
    engine.errored = True
    await MetricsFeeder(EngineLink(engine), period_s=0.001).run()
    assert engine.asked == []


@pytest.mark.engine
def test_plugin_has_what_vllm_asks_of_one() -> None:
    interface = pytest.importorskip("vllm.plugins.endpoint_plugins.interface")
    assert isinstance(NiyamaEndpoints(), interface.EndpointPlugin)


def _chat(label: str, value: str) -> dict[str, str]:
    return {"qos_class": "chat", "model_name": "demo", "engine": "0", label: value}


async def _feed_until(engine: Engine, is_done: Callable[[], bool]) -> None:
    """Run a feeder; the dead engine ends it once the condition holds."""

    class Watched(EngineLink):
        @property
        def is_dead(self) -> bool:
            return is_done()

    await MetricsFeeder(Watched(engine), period_s=0.001).run()
