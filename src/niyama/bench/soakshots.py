"""What a soak sends, and when: everything drawn from one seed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["served", "leaves_reading", "leaves_waiting", "half_sent", "refused"]

KIND_WEIGHTS: dict[Kind, float] = {
    "served": 0.72,
    "leaves_reading": 0.1,
    "leaves_waiting": 0.07,
    "half_sent": 0.02,
    "refused": 0.09,
}
"""What clients do: read to the end; leave after some tokens; leave before the first; break off while
sending; ask for what cannot be."""

BOOK = """default: chat
classes:
  chat: {ttft: 2s, tbt: 100ms, importance: high}
  reader: {ttft: 4s, tbt: 200ms}
  batch: {ttlt: 30s}
  night: {ttlt: 10min, importance: low}
service_tiers: {priority: chat, flex: night}
"""
CLASSES = ("chat", "reader", "batch", "night")

BURST_EVERY_S = 30.0
BURST_S = 5.0
BURST_FACTOR = 3.0
"""So often, so long and by so much the rate is raised."""

MAX_TOKENS_IN_ALL = 2048
"""Prompt and answer; the server's `--max-model-len`."""

PROMPT_TOKENS = (4, 1200)
OUTPUT_TOKENS = (1, 160)
SHARED_PREFIX_TOKENS = 256
SHARED_SHARE = 0.25
FIRST_WORD, NUM_WORDS = 300, 1500
"""Token ids that are words in nearly every vocabulary."""

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@dataclass(slots=True)
class Shot:
    """One client.

    Attributes:
        at_s: When it sends, seconds from the start.
        kind: What it does.
        path: Where it sends to.
        body: What it sends, bytes of JSON or of what is none.
        headers: Its own.
        qos_class: Which class serves it.
        num_sequences: Answers that the engine computes for it, 0 if it is to be refused.
        num_output_tokens: Tokens of its whole answer.
        leaves_after: Events of the stream (`leaves_reading`) or seconds (`leaves_waiting`).
        statuses: What the server may answer.
    """

    at_s: float
    kind: Kind
    path: str
    body: bytes
    qos_class: str
    num_sequences: int = 1
    num_output_tokens: int = 0
    is_streamed: bool = False
    leaves_after: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    statuses: tuple[int, ...] = (200,)


def arrivals(rng: random.Random, qps: float, seconds: float) -> Iterator[float]:
    """Yield Poisson arrivals at `qps`, thrice that in the bursts, up to `seconds`."""
    at_s = rng.expovariate(qps * BURST_FACTOR)
    while at_s < seconds:
        if is_burst(at_s) or rng.random() < 1 / BURST_FACTOR:
            yield at_s
        at_s += rng.expovariate(qps * BURST_FACTOR)


def is_burst(at_s: float) -> bool:
    """Return whether a burst is on; each period ends with one."""
    return at_s % BURST_EVERY_S >= BURST_EVERY_S - BURST_S


def shots(seed: int, qps: float, seconds: float, model: str) -> Iterator[Shot]:
    """Yield the clients in order of time. The same arguments give the same clients.

    Args:
        seed: Of everything.
        qps: Clients per second outside the bursts, > 0.
        seconds: For how long they come.
        model: The name that requests use.
    """
    when, what = random.Random(f"{seed} arrivals"), random.Random(f"{seed} shots")
    kinds, weights = list(KIND_WEIGHTS), list(KIND_WEIGHTS.values())
    for at_s in arrivals(when, qps, seconds):
        kind = what.choices(kinds, weights)[0]
        yield _refused(what, at_s, model) if kind == "refused" else _asking(what, at_s, kind, model)


def _asking(rng: random.Random, at_s: float, kind: Kind, model: str) -> Shot:
    num_output = _log_uniform(rng, *OUTPUT_TOKENS)
    is_chat = rng.random() < 0.3
    is_streamed = kind == "leaves_reading" or rng.random() < 0.6
    num_sequences = 2 if rng.random() < 0.05 else 1
    qos_class, carried, headers = _asked_class(rng)
    body: dict[str, Any] = {"model": model, "ignore_eos": True, "n": num_sequences, **carried}
    body["max_tokens"] = body["min_tokens"] = num_output
    if num_sequences == 1 and rng.random() < 0.7:
        body["temperature"] = 0
    if rng.random() < 0.1:
        body["logprobs"], extra = (True, {"top_logprobs": 3}) if is_chat else (3, {})
        body |= extra
    if is_streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    words = _prompt(rng)
    if is_chat:
        text = " ".join(f"w{word}" for word in words[: len(words) // 6])
        body["messages"] = [{"role": "user", "content": text or "hello"}]
    else:
        body["prompt"] = words
    leaves_after = float(rng.randint(1, 20)) if kind == "leaves_reading" else rng.uniform(0.0, 1.5)
    return Shot(
        at_s,
        kind,
        CHAT if is_chat else COMPLETIONS,
        json.dumps(body).encode(),
        qos_class,
        num_sequences,
        num_sequences * num_output,
        is_streamed,
        leaves_after,
        headers,
    )


def _asked_class(rng: random.Random) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Return a class, and how it is asked for: what goes into the body, and the headers."""
    qos_class = rng.choice(CLASSES)
    carrier = rng.random()
    if carrier < 0.4:
        return qos_class, {"vllm_xargs": {"niyama_class": qos_class}}, {}
    if carrier < 0.8:
        return qos_class, {}, {"x-niyama-class": qos_class}
    if carrier < 0.9:
        return "night", {"service_tier": "flex"}, {}
    if carrier < 0.95:
        slo = {"niyama_ttft_ms": rng.randint(20, 5000), "niyama_tbt_ms": rng.randint(20, 500)}
        return qos_class, {"vllm_xargs": {"niyama_class": qos_class, **slo}}, {}
    return "chat", {}, {}


def _prompt(rng: random.Random) -> list[int]:
    num_tokens = _log_uniform(rng, *PROMPT_TOKENS)
    if rng.random() < SHARED_SHARE:
        shared = random.Random(f"prefix {rng.randrange(4)}")
        words = [FIRST_WORD + shared.randrange(NUM_WORDS) for _ in range(SHARED_PREFIX_TOKENS)]
    else:
        words = []
    return words + [FIRST_WORD + rng.randrange(NUM_WORDS) for _ in range(num_tokens)]


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return round(low * math.exp(math.log(high / low) * rng.random()))


_BAD: tuple[tuple[dict[str, Any], dict[str, str], int], ...] = (
    ({"vllm_xargs": {"niyama_class": "gold"}}, {}, 400),
    ({"vllm_xargs": {"niyama_ttft_ms": -1}}, {}, 400),
    ({"vllm_xargs": {"niyama_color": "red"}}, {}, 400),
    ({"service_tier": "platinum"}, {}, 400),
    ({}, {"x-niyama-class": "nobody"}, 400),
    ({}, {"x-llm-d-slo-ttft-ms": "nan"}, 400),
    ({"max_tokens": -3}, {}, 400),
    ({"temperature": -5}, {}, 400),
    ({"prompt": [FIRST_WORD] * (MAX_TOKENS_IN_ALL + 1)}, {}, 400),
    ({"prompt": [10**7]}, {}, 400),
    ({"model": "no-such-model"}, {}, 404),
)
_BROKEN = (b"", b"{", b'{"model": "', b"[1, 2]", b"\xff\xfe\x00", b"null", b'{"prompt": NaN, "model"')


def _refused(rng: random.Random, at_s: float, model: str) -> Shot:
    """Return a client that asks for what cannot be; the engine never hears of it."""
    if rng.random() < 0.3:
        body, headers, statuses = rng.choice(_BROKEN), dict[str, str](), (400, 422)
    else:
        bad, headers, status = rng.choice(_BAD)
        asked = {"model": model, "prompt": "hello", "max_tokens": 4, **bad}
        body, statuses = json.dumps(asked).encode(), (status, status)
    return Shot(at_s, "refused", COMPLETIONS, body, "", 0, headers=headers, statuses=statuses)
