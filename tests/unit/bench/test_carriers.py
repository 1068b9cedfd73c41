from __future__ import annotations

from typing import Any

import pytest

from niyama.bench.carriers import make_carrier, priorities
from niyama.bench.planned import Planned
from niyama.qosfile import parse_book
from niyama.server.carriers import read_carriers

BOOK = parse_book("""
default: chat
classes:
  chat: {ttft: 2s, tbt: 50ms, importance: high}
  search: {ttft: 500ms, importance: high}
  flex: {ttlt: 10min}
  night: {ttlt: 8h, importance: low}
service_tiers: {priority: search, flex: flex, standard_only: night}
objectives: {gold: chat, silver: search, bronze: flex, slow: night, dear: chat}
""")


def request(qos_class: str) -> Planned:
    return Planned(
        id="r", due_at=0.0, num_prompt_tokens=1, num_output_tokens=1, qos_class=qos_class, tenant="acme"
    )


@pytest.mark.parametrize("carrier", ["xargs", "header", "objective", "service-tier"])
@pytest.mark.parametrize("qos_class", list(BOOK.classes))
def test_our_own_server_reads_the_class_and_the_tenant(carrier: str, qos_class: str) -> None:
    carried = make_carrier(carrier, BOOK)(request(qos_class))
    headers = [(name.encode(), value.encode()) for name, value in carried.headers.items()]
    read = read_carriers(headers, carried.body, BOOK)
    assert read.ask.qos_class.name == qos_class
    assert read.xargs["niyama_tenant"] == "acme"


@pytest.mark.parametrize("qos_class", list(BOOK.classes))
def test_our_own_server_reads_the_numbers(qos_class: str) -> None:
    carried = make_carrier("slo", BOOK)(request(qos_class))
    assert not carried.body
    headers = [(name.encode(), value.encode()) for name, value in carried.headers.items()]
    slo = read_carriers(headers, {}, BOOK).ask.slo
    asked = BOOK.classes[qos_class].slo
    parts = [(slo.ttft_s, asked.ttft_s), (slo.tbt_s, asked.tbt_s), (slo.ttlt_s, asked.ttlt_s)]
    assert all(part == wanted for part, wanted in parts if wanted is not None)


@pytest.mark.parametrize("qos_class", list(BOOK.classes))
def test_numbers_bring_their_class_so_that_nothing_of_the_default_class_is_left(qos_class: str) -> None:
    carried = make_carrier("slo", BOOK)(request(qos_class))
    headers = [(name.encode(), value.encode()) for name, value in carried.headers.items()]
    ask = read_carriers(headers, {}, BOOK).ask
    assert (ask.qos_class, ask.slo) == (BOOK.classes[qos_class], BOOK.classes[qos_class].slo)


def test_priorities_follow_importance_then_reading_then_the_promise() -> None:
    assert priorities(BOOK) == {"search": 0, "chat": 1, "flex": 2, "night": 3}
    assert make_carrier("priority", BOOK)(request("flex")).body == {"priority": 2}


def test_no_carrier_says_nothing() -> None:
    carried: tuple[dict[str, str], dict[str, Any]] = make_carrier("none", BOOK)(request("chat"))
    assert carried == ({}, {})


def test_carrier_that_cannot_name_a_class_is_refused() -> None:
    book = parse_book("default: a\nclasses: {a: {ttft: 1s}, b: {ttlt: 1h}}")
    for carrier in ("service-tier", "objective"):
        with pytest.raises(ValueError, match=f"--carrier {carrier}: nothing in the QoS file leads to class"):
            make_carrier(carrier, book)
    # Only what requests will ask for needs a name.
    assert make_carrier("service-tier", book, ["a"])(request("a")).body == {"service_tier": "default"}
    with pytest.raises(ValueError, match="--carrier: 'pigeon' is unknown; allowed: xargs"):
        make_carrier("pigeon", book)
