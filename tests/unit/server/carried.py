"""A book, and requests read with it."""

from __future__ import annotations

from niyama.qos import QosBook
from niyama.qosfile import parse_book
from niyama.server.carriers import Carried, read_carriers

BOOK = parse_book(
    """
default: chat
classes:
  chat: {ttft: 2s, tbt: 50ms}
  interactive: {ttft: 6s}
  agent: {ttft: 5s, ttlt: 60s}
  batch: {ttlt: 10min}
service_tiers: {premium: agent}
objectives: {gold: agent}
client_slos: {min_ttft: 500ms, min_tbt: 20ms, min_ttlt: 5s}
tenants: {acme: {classes: [chat, batch]}, nightly: {classes: [batch]}}
"""
)
Headers = dict[str, str]
Body = dict[str, object]


def read(headers: Headers | list[tuple[str, str]], body: Body, book: QosBook = BOOK) -> Carried:
    pairs = headers.items() if isinstance(headers, dict) else headers
    return read_carriers([(name.lower().encode(), value.encode()) for name, value in pairs], body, book)


def xargs(**values: object) -> Body:
    return {"vllm_xargs": values}


SLO_HEADERS = [
    "x-llm-d-slo-ttft-ms",
    "x-slo-ttft-ms",
    "x-llm-d-slo-tpot-ms",
    "x-slo-tpot-ms",
    "x-niyama-ttlt-ms",
]
HEADER = {"x-niyama-class": "interactive"}
