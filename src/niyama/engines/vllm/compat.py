"""Which vLLM versions are supported, and every name of vLLM's that differs between them."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

OLDEST = (0, 25)
NEWEST = (0, 33)

QUEUES = ("waiting", "skipped_waiting", "kv_holding_waiting")
"""The waiting queues of a vLLM scheduler; which of the last two exists depends on its version."""

SCHEDULER_ATTRIBUTES = (
    "running",
    "waiting",
    "requests",
    "max_num_scheduled_tokens",
    "max_num_running_reqs",
    "kv_cache_manager",
    "finished_req_ids",
    "current_step",
    "scheduler_config",
    "vllm_config",
    "block_size",
    "num_spec_tokens",
    "lora_config",
)
"""What our host reads or writes on a vLLM scheduler; checked when it is made."""


class UnsupportedVllmError(RuntimeError):
    """This vLLM is not one that we know how to steer."""


def parse_version(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version string. Raises UnsupportedVllmError if it has none."""
    parts = version.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (IndexError, ValueError):
        raise UnsupportedVllmError(f"vllm: {version!r} is not a version we can read") from None


def check_version(version: str, *, allow_untested: bool) -> None:
    """Refuse a vLLM that is outside the supported range, unless it is allowed untested.

    Raises:
        UnsupportedVllmError: one line with the version and the supported range.
    """
    if allow_untested or OLDEST <= parse_version(version) <= NEWEST:
        return
    oldest, newest = (".".join(map(str, v)) for v in (OLDEST, NEWEST))
    raise UnsupportedVllmError(
        f"vllm: version {version} is not supported; supported: {oldest} to {newest} "
        "(--allow-untested-vllm runs it all the same)"
    )


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler that lacks something we steer by.

    Raises:
        UnsupportedVllmError: one line naming what is missing.
    """
    missing = [name for name in SCHEDULER_ATTRIBUTES if not hasattr(scheduler, name)]
    if missing:
        raise UnsupportedVllmError(
            f"vllm: its scheduler has no {', '.join(missing)}; supported: 0.25 to 0.33"
        )


def queue_names(scheduler: Any) -> list[str]:
    """Return the names of the waiting queues that this scheduler has."""
    return [name for name in QUEUES if hasattr(scheduler, name)]


def hash_block_size(scheduler: Any) -> int:
    """Return how many tokens one block hash stands for."""
    return int(getattr(scheduler, "hash_block_size", scheduler.block_size))


def num_free_kv_tokens(scheduler: Any) -> int:
    """Return the tokens of KV that can be allocated without preempting anyone."""
    return int(scheduler.kv_cache_manager.block_pool.get_num_free_blocks()) * int(scheduler.block_size)


def drop_fatal_seed(request: Any) -> None:
    """On the CPU, take away a seed that would end the engine.

    There vLLM cannot move a seeded generator past the chunks of a split prefill and dies
    ("CPU Generator does not use offset", vllm/v1/worker/gpu_model_runner.py), for every client.
    """
    params = request.sampling_params
    if params is None or params.seed is None or params.temperature == 0 or not _is_cpu():
        return
    params.seed = None
    _say_once("vLLM on the CPU dies of a seeded request whose prefill is split: seeds are ignored")


@cache
def _is_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


@cache
def _say_once(text: str) -> None:
    logger.warning("Niyama: %s (said once)", text)


def num_free_seqs(scheduler: Any) -> int:
    """Return how many more requests vLLM would start. Sessions that wait for input keep their seats.

    Before 0.32 there is but one bound (vllm/v1/core/sched/scheduler.py, `max_num_active_reqs`).
    """
    most = int(scheduler.max_num_running_reqs)
    most = min(most, int(getattr(scheduler, "max_num_active_reqs", most)))
    return most - len(scheduler.running) - int(getattr(scheduler, "num_waiting_for_streaming_input", 0))
