"""A small open-loop client for the benchmarks: streams completions and stamps every token."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

# Every twentieth of the Azure LLM inference trace (conversation, 2023), tokens; computed from
# AzurePublicDataset's AzureLLMInferenceTrace_conv (CC-BY 4.0; Patel et al., Splitwise, ISCA 2024).
# fmt: off
PREFILL_QUANTILES = (
    2, 181, 207, 372, 387, 396, 403, 414, 703, 984, 1020,
    1045, 1071, 1097, 1130, 1189, 1315, 1877, 2735, 4083, 14050,
)
DECODE_QUANTILES = (
    7, 41, 54, 67, 77, 85, 91, 96, 103, 113, 129,
    151, 177, 217, 384, 395, 400, 411, 424, 451, 1000,
)
# fmt: on


@dataclass(slots=True)
class Ask:
    """A request to send: when (seconds from the start), how long, and of which class."""

    at_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    qos_class: str


@dataclass(slots=True)
class Answer:
    """What came back: instants are seconds from the start of the run."""

    ask: Ask
    sent_at: float = 0.0
    token_at: list[float] = field(default_factory=list)
    error: str | None = None


def quantile(table: Sequence[int], share: float) -> float:
    """Return the value at a share in [0, 1] of a table of equally spaced quantiles."""
    place = share * (len(table) - 1)
    low = min(int(place), len(table) - 2)
    return table[low] + (place - low) * (table[low + 1] - table[low])


def conversation(
    rng: random.Random, qps: float, seconds: float, scale: float, classes: Sequence[str]
) -> list[Ask]:
    """Return Poisson arrivals with conversation-like lengths times `scale`, classes in equal shares."""
    asks: list[Ask] = []
    at_s = rng.expovariate(qps)
    while at_s < seconds:
        prompt = max(4, round(quantile(PREFILL_QUANTILES, rng.random()) * scale))
        output = max(2, round(quantile(DECODE_QUANTILES, rng.random()) * scale))
        asks.append(Ask(at_s, prompt, output, classes[rng.randrange(len(classes))]))
        at_s += rng.expovariate(qps)
    return asks


async def send(
    session: aiohttp.ClientSession, url: str, ask: Ask, rng: random.Random, start: float
) -> Answer:
    """Send one request and read its stream to the end."""
    answer = Answer(ask)
    body = {
        "model": "demo",
        "prompt": [rng.randrange(300, 2000) for _ in range(ask.num_prompt_tokens)],
        "max_tokens": ask.num_output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "return_token_ids": True,
        "vllm_xargs": {"niyama_class": ask.qos_class} if ask.qos_class else {"bench": 1},
    }
    answer.sent_at = time.perf_counter() - start
    try:
        async with session.post(f"{url}/v1/completions", json=body) as response:
            if response.status != 200:
                answer.error = f"HTTP {response.status}: {(await response.text())[:200]}"
                return answer
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                now = time.perf_counter() - start
                choices: list[dict[str, Any]] = json.loads(line[6:]).get("choices") or []
                for choice in choices:
                    answer.token_at += [now] * len(choice.get("token_ids") or ())
    except (aiohttp.ClientError, TimeoutError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    return answer


async def run(url: str, asks: Sequence[Ask], seed: int = 0) -> list[Answer]:
    """Send every request at its instant, whatever the server does; return when all are answered."""
    rng = random.Random(seed)
    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        start = time.perf_counter()
        tasks: list[asyncio.Task[Answer]] = []
        for ask in asks:
            await asyncio.sleep(max(0.0, start + ask.at_s - time.perf_counter()))
            tasks.append(asyncio.create_task(send(session, url, ask, rng, start)))
        return list(await asyncio.gather(*tasks))
