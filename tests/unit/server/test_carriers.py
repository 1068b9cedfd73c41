from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.server.carried import BOOK, HEADER, SLO_HEADERS, Body, Headers, read, xargs

from niyama.asking import ALL_KEYS
from niyama.qos import Slo, paper_book
from niyama.qosfile import parse_book
from niyama.server.carriers import QosRequestError, read_carriers

XARG = xargs(niyama_class="batch")
OBJECTIVE = {"x-llm-d-inference-objective": "gold"}
TIER: Body = {"service_tier": "flex"}


@pytest.mark.parametrize(
    ("headers", "body", "name"),
    [
        ({}, {}, "chat"),
        ({}, TIER, "batch"),
        (OBJECTIVE, {}, "agent"),
        (OBJECTIVE, TIER, "agent"),
        (HEADER, TIER, "interactive"),
        (HEADER | OBJECTIVE, TIER, "interactive"),
        (HEADER | OBJECTIVE, TIER | XARG, "batch"),
        (HEADER, XARG, "batch"),
        ({"X-Niyama-Class": " agent "}, {}, "agent"),
        ({"x-gateway-inference-objective": "gold"}, {}, "agent"),
        ({"x-gateway-inference-objective": "gold", "x-llm-d-inference-objective": "tin"}, {}, "chat"),
        ({"x-llm-d-inference-objective": "tin"}, TIER, "chat"),
        ({"x-niyama-class": "nonsense"}, XARG, "batch"),
        ({}, {"vllm_xargs": None, "service_tier": None}, "chat"),
    ],
)
def test_class_comes_from_the_highest_carrier(headers: Headers, body: Body, name: str) -> None:
    carried = read(headers, body)
    assert carried.ask.qos_class.name == name
    assert carried.xargs.get("niyama_class", "chat") == name


@pytest.mark.parametrize(
    ("tier", "name", "answer"),
    [
        ("priority", "interactive", "priority"),
        ("fast", "interactive", "priority"),
        ("flex", "batch", "flex"),
        ("auto", "chat", "default"),
        ("default", "chat", "default"),
        ("scale", "chat", "default"),
        ("standard_only", "chat", "default"),
        ("premium", "agent", "premium"),
    ],
)
def test_service_tier_means_a_class_and_comes_back(tier: str, name: str, answer: str) -> None:
    carried = read({}, {"service_tier": tier})
    assert (carried.ask.qos_class.name, carried.tier) == (name, answer)


@pytest.mark.parametrize(
    ("tier", "headers", "answer"),
    [
        ("flex", {"x-niyama-class": "interactive"}, "priority"),
        ("priority", {"x-niyama-class": "batch"}, "flex"),
        ("priority", {"x-niyama-class": "chat"}, "default"),
        ("priority", {"x-niyama-class": "agent"}, "premium"),
        ("auto", {"x-niyama-class": "batch"}, "flex"),
        ("auto", {"x-llm-d-inference-fairness-id": "nightly"}, "flex"),
    ],
)
def test_service_tier_that_was_overridden_comes_back_as_what_served(
    tier: str, headers: Headers, answer: str
) -> None:
    assert read(headers, {"service_tier": tier}).tier == answer


def test_operator_map_of_service_tiers_wins_over_the_usual_meaning() -> None:
    book = parse_book(
        "default: a\nclasses: {a: {ttft: 1s}, interactive: {ttft: 1s}, b: {ttlt: 1s}}\n"
        "service_tiers: {priority: b, auto: b}\n"
    )
    for tier, name, answer in (("priority", "b", "priority"), ("fast", "b", "priority")):
        carried = read({}, {"service_tier": tier}, book)
        assert (carried.ask.qos_class.name, carried.tier) == (name, answer)
    assert read({}, {"service_tier": "auto"}, book).ask.qos_class.name == "b"
    assert read({}, {"service_tier": "default"}, book).ask.qos_class.name == "a"


def test_service_tier_that_was_overridden_is_never_answered_with_auto_or_an_alias() -> None:
    book = parse_book(
        "default: a\nclasses: {a: {ttft: 1s}, b: {ttft: 2s}, c: {ttft: 3s}}\n"
        "service_tiers: {auto: b, fast: b, gold: b}\n"
    )
    for name, answer in (("b", "gold"), ("c", "default"), ("a", "default")):
        assert read({"x-niyama-class": name}, {"service_tier": "flex"}, book).tier == answer


def test_service_tier_without_its_class_means_the_default_and_says_so() -> None:
    book = parse_book("default: a\nclasses: {a: {ttft: 1s}}\n")
    for tier in ("priority", "fast", "flex"):
        carried = read({}, {"service_tier": tier}, book)
        assert (carried.ask.qos_class.name, carried.tier, dict(carried.xargs)) == ("a", "default", {})


def test_service_tier_auto_with_the_paper_book_is_default_not_priority() -> None:
    assert read({}, {"service_tier": "auto"}, paper_book()).tier == "default"
    assert read({}, {"service_tier": "priority"}, paper_book()).tier == "priority"


@pytest.mark.parametrize(
    ("headers", "body", "slo"),
    [
        ({"x-llm-d-slo-ttft-ms": "1000"}, {}, Slo(1.0, 0.05)),
        ({"x-slo-ttft-ms": "1000"}, {}, Slo(1.0, 0.05)),
        ({"x-slo-ttft-ms": "1000", "x-llm-d-slo-ttft-ms": "3000"}, {}, Slo(3.0, 0.05)),
        ({"x-llm-d-slo-tpot-ms": "100"}, {}, Slo(2.0, 0.1)),
        ({"x-slo-tpot-ms": "100.5"}, {}, Slo(2.0, 0.1005)),
        ({"x-niyama-ttlt-ms": "90000"}, {}, Slo(2.0, 0.05, 90.0)),
        ({"x-niyama-ttlt-ms": "90000"}, xargs(niyama_ttlt_ms=80000), Slo(2.0, 0.05, 80.0)),
        ({"x-niyama-ttlt-ms": "90000"}, xargs(niyama_ttft_ms=3000), Slo(3.0, 0.05, 90.0)),
        ({"x-niyama-ttlt-ms": "90000"}, TIER, Slo(None, None, 90.0)),
        ({"x-llm-d-slo-ttft-ms": "1"}, {}, Slo(0.5, 0.05)),
    ],
)
def test_slo_parts_come_from_their_highest_carrier(headers: Headers, body: Body, slo: Slo) -> None:
    assert read(headers, body).ask.slo == slo


def test_xargs_hold_what_the_client_set_clamped_and_its_other_keys() -> None:
    headers = {
        "x-niyama-class": "agent",
        "x-llm-d-slo-ttft-ms": "1",
        "x-llm-d-inference-fairness-id": "globex",
    }
    body = xargs(niyama_output_tokens=40, niyama_ttlt_ms=7000, other=[1, "a"])
    carried = read(headers, body)
    assert carried.xargs == {
        "niyama_class": "agent",
        "niyama_ttft_ms": 500.0,
        "niyama_ttlt_ms": 7000,
        "niyama_tenant": "globex",
        "niyama_output_tokens": 40,
        "other": [1, "a"],
    }
    assert carried.ask.expected_output_tokens == 40
    assert body["vllm_xargs"] == {"niyama_output_tokens": 40, "niyama_ttlt_ms": 7000, "other": [1, "a"]}


def test_request_that_asks_for_nothing_gets_no_xargs() -> None:
    carried = read({"content-type": "application/json", "x-request-id": "1"}, {"messages": []})
    assert (dict(carried.xargs), carried.tier) == ({}, None)


@pytest.mark.parametrize(
    ("headers", "body", "tenant"),
    [
        ({"x-llm-d-inference-fairness-id": "a"}, {}, "a"),
        ({"x-gateway-inference-fairness-id": "a"}, {}, "a"),
        ({"x-niyama-tenant": "a"}, {}, "a"),
        ({"x-niyama-tenant": "a", "x-llm-d-inference-fairness-id": "a"}, xargs(niyama_tenant="a"), "a"),
        ({}, xargs(niyama_tenant="c"), "c"),
        ({"x-llm-d-inference-fairness-id": "a"}, xargs(niyama_tenant=None), "a"),
    ],
)
def test_tenant_comes_from_whoever_names_it(headers: Headers, body: Body, tenant: str) -> None:
    assert read(headers, body).ask.tenant == tenant


NAMES = [
    "x-niyama-class",
    "x-llm-d-inference-objective",
    "x-llm-d-inference-fairness-id",
    *SLO_HEADERS,
    "x-other",
]
HEADER_VALUES = st.one_of(
    st.binary(max_size=300), st.sampled_from([b"chat", b"gold", b"acme", b"100", b"-1"])
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(["batch", "acme"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(), SCALARS, max_size=3))
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "service_tier": st.one_of(VALUES, st.sampled_from(["flex", "auto", "premium"])),
        "vllm_xargs": st.one_of(
            VALUES, st.dictionaries(st.one_of(st.sampled_from(ALL_KEYS), st.text()), VALUES)
        ),
    },
)


@given(st.lists(st.tuples(st.sampled_from([name.encode() for name in NAMES]), HEADER_VALUES)), BODIES)
def test_any_request_is_carried_or_refused(headers: list[tuple[bytes, bytes]], body: Body) -> None:
    try:
        carried = read_carriers(headers, body, BOOK)
    except QosRequestError as error:
        text, known = json.dumps(error.to_body()), error.status in (400, 403)
    else:
        again = read_carriers([], {"vllm_xargs": dict(carried.xargs)}, BOOK)
        text, known = json.dumps(carried.tier), again.ask == carried.ask
    assert known
    assert len(text) < 1000
