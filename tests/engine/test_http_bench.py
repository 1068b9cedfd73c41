"""The load client against real servers: lengths, classes and token counts are what was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.engine.httpserver import Server

from niyama.bench.client import Rules, run_async
from niyama.bench.measure import Measured, Spec, measure
from niyama.bench.planned import Lengths
from niyama.bench.target import Endpoint
from niyama.qos import paper_book
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Workload, load_lengths

pytestmark = pytest.mark.engine


def spec(server: Server, **changes: Any) -> Spec:
    workload = Workload(
        name="azure-conv", lengths=load_lengths("azure-conv"), book=paper_book(), arrivals=poisson, seed=5
    )
    usual = Spec(
        url=server.url,
        workload=workload,
        qps=20.0,
        num_requests=24,
        lengths=Lengths(scale=0.05, max_prompt=200, max_output=20),
        num_warmup=2,
        rules=Rules(max_lag_s=60.0),
    )
    return replace(usual, **changes)


def check(done: Measured) -> None:
    """Assert that every request was served in full, at the lengths and in the class asked for."""
    assert done.result["valid"], done.result["invalid_because"]
    for record in done.flight.records:
        assert record.is_whole, record
        assert record.num_prompt_tokens_served == record.num_prompt_tokens
        assert len(record.token_at) == record.num_output_tokens_served == record.num_output_tokens
        assert record.token_at == sorted(record.token_at)
        assert record.served_class == record.qos_class


@pytest.mark.parametrize(("endpoint", "carrier"), [("completions", "xargs"), ("chat", "header")])
def test_lengths_classes_and_counts_are_exact(server: Server, endpoint: Endpoint, carrier: str) -> None:
    before = {name: state["met"] + state["missed"] for name, state in server.state()["classes"].items()}
    done = run_async(measure(spec(server, endpoint=endpoint, carrier=carrier)))
    check(done)
    after = {name: state["met"] + state["missed"] for name, state in server.state()["classes"].items()}
    sent = {name: sum(r.qos_class == name for r in done.flight.records) for name in before}
    assert all(after[name] - before[name] >= num for name, num in sent.items())
    assert done.result["target"]["policy"] == "niyama"
    assert done.result["relegated_share"] is not None


def test_no_prompt_hits_the_prefix_cache_unless_it_shares_one(server: Server) -> None:
    lengths = Lengths(scale=1e-9, min_prompt=400, max_output=2)
    for _ in range(2):  # the second time with the same prompts
        done = run_async(measure(spec(server, lengths=lengths, num_requests=8)))
        assert done.result["prefix_cache_hit_share"] == 0
    shared = run_async(measure(spec(server, lengths=lengths, num_requests=8, shared_prefix=300, qps=1.0)))
    assert shared.result["prefix_cache_hit_share"] > 0.1


def test_tokens_of_a_speculating_server_are_all_counted(pressed_server: Server) -> None:
    """With speculation an event may hold several tokens; this server wants a key and has a short context."""
    lengths = Lengths(scale=0.2, max_output=60)
    done = run_async(measure(spec(pressed_server, api_key="secret", lengths=lengths, num_requests=12)))
    check(done)
    assert max(r.num_prompt_tokens + r.num_output_tokens for r in done.flight.records) <= 512
