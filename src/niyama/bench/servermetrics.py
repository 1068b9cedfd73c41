"""What the server itself says of a run: counters of `/metrics`, after less before.

Of a server without them (another engine, metrics switched off) every figure is None.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from niyama.bench.target import Target

if TYPE_CHECKING:
    from aiohttp import ClientSession

SETTLE_S = 1.5
"""The API process drains the scheduler twice a second; after this time its counters are complete."""

RELEGATED = "niyama_relegated_requests_finished_total"
ENDED = "niyama_requests_total"
PREEMPTED = "vllm:num_preemptions_total"
CACHE_HITS, CACHE_QUERIES = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
_NAMES = (RELEGATED, ENDED, PREEMPTED, CACHE_HITS, CACHE_QUERIES)

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_CLASS = re.compile(r'qos_class="([^"]*)"')

Counters = dict[tuple[str, str], float]
"""Metric and class (empty without one) to value, other labels summed up."""


def read_counters(text: str) -> Counters:
    """Return the counters that matter here from Prometheus's text format."""
    counters: defaultdict[tuple[str, str], float] = defaultdict(float)
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None or found[1] not in _NAMES:
            continue
        qos_class = _CLASS.search(found[2] or "")
        counters[found[1], qos_class[1] if qos_class else ""] += float(found[3])
    return dict(counters)


async def fetch_counters(session: ClientSession, target: Target) -> Counters:
    """Return the server's counters; empty if it shows none."""
    import aiohttp

    limit = aiohttp.ClientTimeout(total=10.0)
    try:
        async with session.get(f"{target.url}/metrics", headers=target.headers, timeout=limit) as response:
            text = await response.text()
            return read_counters(text) if response.status == 200 else {}
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return {}


async def settled_counters(session: ClientSession, target: Target) -> Counters:
    """Return the counters once they hold all that has ended."""
    if target.policy is not None:
        await asyncio.sleep(SETTLE_S)
    return await fetch_counters(session, target)


def server_figures(before: Mapping[tuple[str, str], float], after: Counters) -> dict[str, Any]:
    """Return what went on in the server between two readings of its counters."""

    def grown(name: str) -> dict[str, float]:
        return {
            key[1]: value - before.get(key, 0.0) for key, value in sorted(after.items()) if key[0] == name
        }

    relegated, ended = grown(RELEGATED), grown(ENDED)
    hits, queries = sum(grown(CACHE_HITS).values()), sum(grown(CACHE_QUERIES).values())
    preempted = grown(PREEMPTED)
    num_ended = sum(ended.values())
    return {
        "relegated_share": sum(relegated.values()) / num_ended if num_ended else None,
        "relegated_share_by_class": {
            name: relegated.get(name, 0.0) / num for name, num in ended.items() if num
        },
        "preemptions": int(sum(preempted.values())) if preempted else None,
        "prefix_cache_hit_share": hits / queries if queries else None,
    }
