from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyama.asking import ALL_KEYS, UNKNOWN_CLASS, Ask, slo_from_xargs
from niyama.qos import Importance, QosBook, Slo
from niyama.qosfile import parse_book

BOOK = parse_book(
    """
default: chat
classes:
  chat: {ttft: 2s, tbt: 50ms, importance: high}
  agent: {ttft: 5s, ttlt: 60s}
  bulk: {ttlt: 10min}
client_slos: {min_ttft: 500ms, min_tbt: 20ms, min_ttlt: 5s}
tenants: {acme: {classes: [chat, bulk]}, nightly: {classes: [bulk]}}
"""
)
DEFAULT = Ask(BOOK.classes["chat"], Slo(2.0, 0.05))


@pytest.mark.parametrize("extra_args", [None, {}, {"kv_transfer_params": {"a": 1}}, dict.fromkeys(ALL_KEYS)])
def test_ask_without_our_keys_is_the_default_class(extra_args: dict[str, object] | None) -> None:
    assert slo_from_xargs(extra_args, BOOK) == DEFAULT


@pytest.mark.parametrize(
    ("xargs", "name", "slo"),
    [
        ({"niyama_class": "bulk"}, "bulk", Slo(ttlt_s=600.0)),
        ({"niyama_ttft_ms": 1000}, "chat", Slo(1.0, 0.05)),
        ({"niyama_ttft_ms": 9000}, "chat", Slo(9.0, 0.05)),
        ({"niyama_class": "bulk", "niyama_tbt_ms": 100.5}, "bulk", Slo(None, 0.1005, 600.0)),
        ({"niyama_class": "agent", "niyama_ttlt_ms": 30_000}, "agent", Slo(5.0, None, 30.0)),
        ({"niyama_ttft_ms": 1, "niyama_tbt_ms": 1, "niyama_ttlt_ms": 1}, "chat", Slo(0.5, 0.02, 5.0)),
    ],
)
def test_ask_with_a_class_and_parts_overrides_and_clamps(
    xargs: dict[str, object], name: str, slo: Slo
) -> None:
    ask = slo_from_xargs(xargs, BOOK)
    assert (ask.qos_class.name, ask.slo, ask.problem) == (name, slo, None)


def test_ask_takes_tenant_and_output_hint() -> None:
    ask = slo_from_xargs({"niyama_tenant": "acme", "niyama_output_tokens": 12}, BOOK)
    assert (ask.tenant, ask.expected_output_tokens, ask.problem) == ("acme", 12, None)
    assert ask.qos_class.importance is Importance.HIGH


BAD_MS = [0, -1, -0.0, math.nan, math.inf, -math.inf, 1e12, 10**400, True, False, "250", [250], {"a": 1}]


@pytest.mark.parametrize("value", BAD_MS, ids=lambda value: repr(value)[:10])
@pytest.mark.parametrize("key", ["niyama_ttft_ms", "niyama_tbt_ms", "niyama_ttlt_ms"])
def test_ask_with_a_bad_slo_keeps_the_class_and_tells(key: str, value: object) -> None:
    ask = slo_from_xargs({"niyama_class": "bulk", key: value}, BOOK)
    assert (ask.qos_class.name, ask.slo) == ("bulk", Slo(ttlt_s=600.0))
    assert ask.problem is not None
    assert ask.problem.startswith(f"{key}: ")
    assert "is not an SLO; allowed: a number of milliseconds > 0 and at most" in ask.problem


@pytest.mark.parametrize("value", ["gold", "", "CHAT", 1, True, ["chat"], {"chat": 1}, "x" * 10_000])
def test_ask_for_an_unknown_class_falls_to_the_default_and_tells(value: object) -> None:
    ask = slo_from_xargs({"niyama_class": value, "niyama_ttft_ms": 1000}, BOOK)
    assert (ask.qos_class.name, ask.slo) == ("chat", Slo(1.0, 0.05))
    assert ask.problem is not None
    assert ask.problem.startswith("niyama_class: Unknown QoS class ")
    assert ask.problem.endswith("Known classes: chat, agent, bulk.")
    assert len(ask.problem) < 200
    assert ask.problem_code == UNKNOWN_CLASS


@pytest.mark.parametrize("value", ["", "a b", "é", "x" * 129, 3, ["a"]])
def test_ask_with_a_bad_tenant_has_none_and_tells(value: object) -> None:
    ask = slo_from_xargs({"niyama_tenant": value}, BOOK)
    assert ask.tenant == ""
    assert ask.problem is not None
    assert "is not a tenant" in ask.problem


@pytest.mark.parametrize("value", [0, -3, 1.5, "7", True, 2**31, [1]])
def test_ask_with_a_bad_output_hint_has_none_and_tells(value: object) -> None:
    ask = slo_from_xargs({"niyama_output_tokens": value}, BOOK)
    assert ask.expected_output_tokens is None
    assert ask.problem is not None
    assert "is not a number of output tokens" in ask.problem


@pytest.mark.parametrize(
    ("xargs", "name", "problem"),
    [
        ({"niyama_tenant": "acme", "niyama_class": "bulk"}, "bulk", None),
        ({"niyama_tenant": "acme", "niyama_class": "agent"}, "chat", "may not use QoS class 'agent'"),
        ({"niyama_tenant": "nightly", "niyama_class": "chat"}, "bulk", "may not use QoS class 'chat'"),
        ({"niyama_tenant": "nightly"}, "bulk", None),
        ({"niyama_tenant": "stranger", "niyama_class": "agent"}, "agent", None),
    ],
)
def test_ask_of_a_tenant_stays_within_its_classes(
    xargs: dict[str, object], name: str, problem: str | None
) -> None:
    ask = slo_from_xargs(xargs, BOOK)
    assert ask.qos_class.name == name
    assert ask.slo == BOOK.classes[name].slo
    assert (ask.problem is None) if problem is None else (problem in (ask.problem or ""))
    assert ask.problem_code == (None if problem is None else "class_not_allowed")


def test_ask_for_an_slo_where_the_operator_takes_none_falls_back_and_tells() -> None:
    closed = parse_book("default: chat\nclasses: {chat: {ttft: 2s}}\nclient_slos: {allow: false}\n")
    ask = slo_from_xargs({"niyama_ttft_ms": 9000}, closed)
    assert ask.slo == Slo(2.0)
    assert ask.problem == (
        "niyama_ttft_ms: This server takes no SLOs from clients; allowed: a QoS class, one of chat."
    )


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from([*BOOK.classes, "acme"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS), st.dictionaries(st.text(), SCALARS))


@given(st.dictionaries(st.sampled_from([*ALL_KEYS, "niyama_other"]), VALUES))
def test_ask_from_anything_is_usable(xargs: dict[str, object]) -> None:
    ask = slo_from_xargs(xargs, BOOK)
    limits = BOOK.client_slos
    assert ask.qos_class in BOOK.classes.values()
    assert BOOK.tenants.get(ask.tenant) is None or BOOK.tenants[ask.tenant].allows(ask.qos_class.name)
    assert ask.slo.ttft_s is None or ask.slo.ttft_s >= limits.min_ttft_s
    assert ask.slo.tbt_s is None or ask.slo.tbt_s >= limits.min_tbt_s
    assert ask.slo.ttlt_s is None or ask.slo.ttlt_s >= limits.min_ttlt_s
    assert ask.problem is None or len(ask.problem.splitlines()) == 1


def test_ask_with_a_floor_above_the_class_leaves_the_class_promise_alone() -> None:
    book: QosBook = parse_book("default: a\nclasses: {a: {ttft: 50ms}}\nclient_slos: {min_ttft: 1s}\n")
    assert slo_from_xargs({}, book).slo == Slo(0.05)
