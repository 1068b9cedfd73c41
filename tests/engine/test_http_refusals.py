"""Bad wishes get a 400 that names the carrier, and the server goes on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.httpserver import Server

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

BAD_BODIES: list[tuple[dict[str, Any], str, str]] = [
    ({"vllm_xargs": {"niyama_class": "gold"}}, "vllm_xargs.niyama_class", "invalid_qos_class"),
    ({"vllm_xargs": {"niyama_class": 3}}, "vllm_xargs.niyama_class", "invalid_qos_class"),
    ({"vllm_xargs": {"niyama_color": "red"}}, "vllm_xargs.niyama_color", "invalid_qos_class"),
    ({"vllm_xargs": {"niyama_ttft_ms": "soon"}}, "vllm_xargs.niyama_ttft_ms", "invalid_slo"),
    ({"vllm_xargs": {"niyama_ttft_ms": -1}}, "vllm_xargs.niyama_ttft_ms", "invalid_slo"),
    ({"vllm_xargs": {"niyama_tbt_ms": 0}}, "vllm_xargs.niyama_tbt_ms", "invalid_slo"),
    ({"vllm_xargs": {"niyama_ttlt_ms": 1e300}}, "vllm_xargs.niyama_ttlt_ms", "invalid_slo"),
    ({"vllm_xargs": {"niyama_ttlt_ms": True}}, "vllm_xargs.niyama_ttlt_ms", "invalid_slo"),
    ({"service_tier": "platinum"}, "service_tier", "invalid_service_tier"),
    ({"service_tier": 7}, "service_tier", "invalid_service_tier"),
]
BAD_HEADERS: list[tuple[dict[str, str], str, str]] = [
    ({"x-niyama-class": "gold"}, "x-niyama-class", "invalid_qos_class"),
    ({"x-niyama-class": "g" * 1000}, "x-niyama-class", "invalid_qos_class"),
    ({"x-llm-d-slo-ttft-ms": "nan"}, "x-llm-d-slo-ttft-ms", "invalid_slo"),
    ({"x-slo-tpot-ms": "inf"}, "x-slo-tpot-ms", "invalid_slo"),
    ({"x-niyama-ttlt-ms": "-5"}, "x-niyama-ttlt-ms", "invalid_slo"),
]


def _body(path: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": "demo", "max_tokens": 2}
    if path == CHAT:
        return asked | {"messages": [{"role": "user", "content": "hello"}]}
    return asked | {"prompt": "hello"}


def _assert_refused(server: Server, answer: Any, param: str, code: str) -> None:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("bad", "param", "code"), BAD_BODIES)
def test_bad_body_is_refused(server: Server, path: str, bad: dict[str, Any], param: str, code: str) -> None:
    _assert_refused(server, server.http.post(path, json=_body(path) | bad), param, code)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("bad", "param", "code"), BAD_HEADERS)
def test_bad_header_is_refused(server: Server, path: str, bad: dict[str, str], param: str, code: str) -> None:
    _assert_refused(server, server.http.post(path, json=_body(path), headers=bad), param, code)


@pytest.mark.parametrize(
    ("text", "status"),
    [("{", 400), ('{"model": "demo", "prompt": "hello", "vllm_xargs": {"niyama_ttft_ms": NaN}}', 400)],
    ids=["no JSON", "NaN"],
)
def test_broken_json_is_refused(server: Server, text: str, status: int) -> None:
    answer = server.http.post(COMPLETIONS, content=text, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert server.http.get("/health").status_code == 200


def test_requests_after_refusals_are_served(server: Server) -> None:
    for path in (CHAT, COMPLETIONS):
        server.http.post(path, json=_body(path) | {"service_tier": "platinum"})
        answer = server.http.post(path, json=_body(path) | {"service_tier": "priority"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-niyama-class"] == "interactive"
