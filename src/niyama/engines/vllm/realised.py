"""What vLLM made of a plan: the launch that the policy is told of, and the differences by cause."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from niyama.scheduling.policy import BatchShape, Launch, Plan, Prefill


def read_launch(
    output: Any,
    now_s: float,
    prefilling: Mapping[str, Any],
    decoding: Iterable[str],
    num_decoding: int,
    decode_context: int,
    preempted: list[str],
    requests: Mapping[str, Any],
) -> Launch:
    """Return what a scheduler output launches. O(prefills), unless a decode is missing.

    Args:
        output: vLLM's SchedulerOutput, after `schedule()`.
        now_s: Instant of the launch.
        prefilling: vLLM's requests that were not decoding before this step, by id.
        decoding: Ids of those that were.
        num_decoding: How many.
        decode_context: Their tokens in KV.
        preempted: Who lost its KV in this step.
        requests: All of vLLM's requests, by id.
    """
    scheduled: dict[str, int] = output.num_scheduled_tokens
    prefills: list[Prefill] = []
    shape = BatchShape(0, 0)
    for request_id, request in prefilling.items():
        num_tokens = scheduled.get(request_id)
        if num_tokens is None:
            continue
        computed = int(request.num_computed_tokens)
        remaining = max(0, int(request.num_tokens) - computed)
        prefills.append(Prefill(request_id, num_tokens, computed, remaining))
        shape = shape.with_chunk(num_tokens, max(0, computed - num_tokens))
    num_decodes = len(scheduled) - len(prefills)
    decode_tokens = int(output.total_num_scheduled_tokens) - shape.num_prefill_tokens
    stalled: list[str] = []
    if num_decodes != num_decoding:
        stalled = [i for i in decoding if i not in scheduled]
        decode_context -= sum(int(requests[i].num_computed_tokens) for i in stalled if i in requests)
    return Launch(
        at=now_s,
        prefills=prefills,
        shape=shape._replace(num_decode_tokens=decode_tokens, decode_context=max(0, decode_context)),
        stalled=stalled,
        preempted=preempted,
    )


def differences(plan: Plan, launch: Launch, greedy: str | None) -> dict[str, int]:
    """Return in how many requests, or steps, vLLM realised something else than planned, by cause.

    `running_first`: held because vLLM would have served it before a more urgent waiting request
    (`greedy`, see `steering`); `cache_hit`: needed fewer tokens than planned; `not_started`:
    planned, but not run (no KV, a grammar still compiling, a full LoRA slot); `filled_in`: ran on
    tokens that others left; `preempted`: lost its KV; `stalled`: a decode that got no token unplanned,
    or one although it was to sit out.
    """
    as_planned = [(p.request_id, p.num_tokens) for p in launch.prefills] == plan.chunks
    unplanned = set(plan.stalled) ^ set(launch.stalled)
    if as_planned and not launch.preempted and not unplanned:
        return {}
    planned = {i: n for i, n in plan.chunks if i != greedy}
    ran = {p.request_id: p for p in launch.prefills}
    causes = {
        "running_first": int(greedy is not None),
        "cache_hit": sum(1 for i, n in planned.items() if i in ran and ran[i].num_tokens < n),
        "not_started": sum(1 for i in planned if i not in ran),
        "filled_in": sum(1 for i, p in ran.items() if p.num_tokens > planned.get(i, 0)),
        "preempted": len(launch.preempted),
        "stalled": len(unplanned),
    }
    return {cause: count for cause, count in causes.items() if count}


def completed(launch: Launch, runner_output: Any) -> list[str]:
    """Return whose prefill ended with a token; only those few are looked at."""
    sampled = runner_output.sampled_token_ids
    if not len(sampled):
        return []
    index = runner_output.req_id_to_index
    done = (p.request_id for p in launch.prefills if p.remaining == 0)
    return [i for i in done if i in index and len(sampled[index[i]]) > 0]


def extra_tokens(launch: Launch, output: Any, runner_output: Any, decoding: Container[str]) -> dict[str, int]:
    """Return by how much decodes differ from one token each; without speculation by nothing."""
    if not output.scheduled_spec_decode_tokens:
        return {}
    sampled, index = runner_output.sampled_token_ids, runner_output.req_id_to_index
    prefills = {p.request_id for p in launch.prefills}
    extra: dict[str, int] = {}
    for request_id in output.scheduled_spec_decode_tokens:
        if request_id in decoding and request_id not in prefills:
            num_tokens = len(sampled[index[request_id]]) - 1
            if num_tokens:
                extra[request_id] = num_tokens
    return extra
