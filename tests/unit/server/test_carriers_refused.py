"""What a request cannot ask for: refused with one clear error that names the carrier."""

from __future__ import annotations

import json
import math

import pytest
from tests.unit.server.carried import HEADER, SLO_HEADERS, Body, Headers, read, xargs

from niyama.qosfile import parse_book
from niyama.server.carriers import QosRequestError

LONG = "9" * 257
BAD_NUMBERS = [
    "",
    "abc",
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e5",
    "1_000",
    "0x10",
    "5s",
    "1,5",
    "99999999999",
    "٣",
]
BAD_VALUES = [0, -1, math.nan, math.inf, 1e12, 10**400, True, "250", [250], {"ms": 1}]
UNKNOWN = "Unknown QoS class 'gold'. Known classes: chat, interactive, agent, batch."
BAD: list[tuple[Headers, Body, str, str, str]] = [
    ({"x-niyama-class": "gold"}, {}, "x-niyama-class", "invalid_qos_class", UNKNOWN),
    ({}, xargs(niyama_class="gold"), "vllm_xargs.niyama_class", "invalid_qos_class", UNKNOWN),
    ({}, xargs(niyama_class=3), "vllm_xargs.niyama_class", "invalid_qos_class", "Unknown QoS class 3. Known"),
    ({"x-niyama-class": ""}, {}, "x-niyama-class", "invalid_qos_class", "Unknown QoS class ''. Known"),
    (
        {"x-niyama-class": "c" * 257},
        {},
        "x-niyama-class",
        "invalid_qos_class",
        "257 characters long; allowed: at most 256",
    ),
    (
        {"x-llm-d-inference-objective": LONG},
        {},
        "x-llm-d-inference-objective",
        "invalid_qos_class",
        "at most 256",
    ),
    (
        {"x-llm-d-inference-fairness-id": LONG},
        {},
        "x-llm-d-inference-fairness-id",
        "invalid_tenant",
        "at most 256",
    ),
    (
        {"x-llm-d-inference-fairness-id": "a b"},
        {},
        "x-llm-d-inference-fairness-id",
        "invalid_tenant",
        "is not a tenant",
    ),
    (
        {},
        {"service_tier": "gold"},
        "service_tier",
        "invalid_service_tier",
        "Unknown service tier 'gold'. Known tiers: priority, flex, fast, auto",
    ),
    ({}, {"service_tier": 3}, "service_tier", "invalid_service_tier", "Unknown service tier 3"),
    ({}, {"service_tier": ["flex"]}, "service_tier", "invalid_service_tier", "Unknown service tier a list"),
    (HEADER, {"service_tier": "gold"}, "service_tier", "invalid_service_tier", "Unknown service tier"),
    ({}, {"vllm_xargs": "x"}, "vllm_xargs", "invalid_qos_class", "'x' is not an object; allowed: an object"),
    ({}, {"vllm_xargs": [1]}, "vllm_xargs", "invalid_qos_class", "a list is not an object"),
    (
        {},
        xargs(niyama_ttft=3),
        "vllm_xargs.niyama_ttft",
        "invalid_qos_class",
        "Unknown key 'niyama_ttft'; allowed: niyama_class",
    ),
    (
        {},
        xargs(niyama_output_tokens=0),
        "vllm_xargs.niyama_output_tokens",
        "invalid_output_tokens",
        "allowed: a whole number from 1",
    ),
    ({}, xargs(niyama_tenant=""), "vllm_xargs.niyama_tenant", "invalid_tenant", "is not a tenant"),
    *(({header: LONG}, {}, header, "invalid_slo", "at most 256") for header in SLO_HEADERS),
    *(
        ({header: text}, {}, header, "invalid_slo", "is not an SLO; allowed: a number of milliseconds > 0")
        for header in SLO_HEADERS
        for text in BAD_NUMBERS
    ),
    *(
        ({}, xargs(**{key: value}), f"vllm_xargs.{key}", "invalid_slo", "is not an SLO; allowed:")
        for key in ("niyama_ttft_ms", "niyama_tbt_ms", "niyama_ttlt_ms")
        for value in BAD_VALUES
    ),
]


@pytest.mark.parametrize(("headers", "body", "param", "code", "message"), BAD)
def test_bad_value_is_refused_naming_its_carrier(
    headers: Headers, body: Body, param: str, code: str, message: str
) -> None:
    with pytest.raises(QosRequestError) as caught:
        read(headers, body)
    error = caught.value.to_body()["error"]
    assert isinstance(error, dict)
    assert caught.value.status == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert message in error["message"]
    assert len(error["message"]) < 300


@pytest.mark.parametrize("name", ["x-niyama-class", "x-llm-d-slo-ttft-ms", "x-llm-d-inference-objective"])
def test_header_given_twice_must_agree_with_itself(name: str) -> None:
    with pytest.raises(
        QosRequestError, match=f"Header {name} is given 2 times with different values"
    ) as caught:
        read([(name, "1000"), (name.title(), "2000")], {})
    assert (caught.value.param, caught.value.status) == (name, 400)
    same = [("x-niyama-class", "batch"), ("X-Niyama-Class", "batch")]
    assert read(same, {}).ask.qos_class.name == "batch"


def test_class_that_is_closed_to_the_tenant_is_forbidden() -> None:
    cases: list[tuple[Headers, Body, str]] = [
        ({"x-llm-d-inference-fairness-id": "acme", "x-niyama-class": "agent"}, {}, "x-niyama-class"),
        ({}, xargs(niyama_tenant="acme", niyama_class="agent"), "vllm_xargs.niyama_class"),
        ({"x-llm-d-inference-fairness-id": "acme"}, {"service_tier": "priority"}, "service_tier"),
    ]
    for headers, body, param in cases:
        with pytest.raises(QosRequestError, match=r"may not use QoS class .* allowed: chat, batch") as caught:
            read(headers, body)
        assert (caught.value.status, caught.value.param, caught.value.code) == (
            403,
            param,
            "class_not_allowed",
        )
        assert '"permission_error"' in json.dumps(caught.value.to_body())


@pytest.mark.parametrize(
    ("headers", "body", "param"),
    [
        ({"x-niyama-tenant": "acme"}, xargs(niyama_tenant="globex"), "vllm_xargs.niyama_tenant"),
        ({"x-niyama-tenant": "acme"}, xargs(niyama_tenant=["acme"]), "vllm_xargs.niyama_tenant"),
        ({"x-niyama-tenant": "acme", "x-llm-d-inference-fairness-id": "globex"}, {}, "x-niyama-tenant"),
    ],
)
def test_tenant_of_a_header_is_not_left_by_another_carrier(headers: Headers, body: Body, param: str) -> None:
    with pytest.raises(
        QosRequestError, match=r"is not the tenant of the header x-.*; allowed: the same"
    ) as caught:
        read(headers, body)
    error = caught.value
    assert (error.status, error.param, error.code) == (403, param, "tenant_not_allowed")


def test_tenant_that_names_no_class_gets_one_that_is_open_to_it() -> None:
    assert read({"x-llm-d-inference-fairness-id": "nightly"}, {}).ask.qos_class.name == "batch"


def test_slo_where_the_operator_takes_none_is_refused() -> None:
    book = parse_book("default: a\nclasses: {a: {ttft: 1s}}\nclient_slos: {allow: false}\n")
    with pytest.raises(QosRequestError, match="takes no SLOs from clients; allowed: a QoS class, one of a"):
        read({"x-niyama-ttlt-ms": "5000"}, {}, book)
