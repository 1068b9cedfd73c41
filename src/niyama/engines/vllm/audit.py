"""Debug runs: the policy's ledger against vLLM's own counts (L1)."""

from __future__ import annotations

from typing import Any

from niyama.scheduling.laws import LawBroken
from niyama.scheduling.ledger import Job, Ledger, Phase


def check_books(ledger: Ledger, scheduler: Any) -> None:
    """Compare who is in, and how far everybody has come, between two steps. O(requests).

    Raises:
        LawBroken: the ledger and vLLM differ.
    """
    requests: dict[str, Any] = scheduler.requests
    if set(ledger.jobs) != set(requests):
        differ = sorted(set(ledger.jobs) ^ set(requests))
        raise LawBroken(f"L1: in the policy or in vLLM, not in both: {differ}")
    if scheduler.num_spec_tokens:
        return  # vLLM counts drafts as computed until it has checked them
    for request_id, job in ledger.jobs.items():
        request = requests[request_id]
        if job.phase is Phase.WAITING or request.num_prompt_tokens != job.request.num_prompt_tokens:
            continue  # a streaming-input session has a longer prompt with every part
        if _num_computed(ledger, job) != request.num_computed_tokens:
            raise LawBroken(
                f"L1: {request_id} {job.phase.value}: {_num_computed(ledger, job)} tokens computed, "
                f"in vLLM {request.num_computed_tokens}"
            )


def _num_computed(ledger: Ledger, job: Job) -> int:
    if job.phase is Phase.DECODING:
        return job.request.num_prompt_tokens + ledger.num_output_tokens(job) - 1
    return job.computed
