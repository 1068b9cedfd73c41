"""The decision log: all that the policy is told and decides, and what vLLM made of it.

Its lines are the calls of `niyama.scheduling.recording`; two more kinds are written here. `start`
opens every engine's part with what is needed to decide the same offline: the format's version,
the settings, the engine's limits, and one instant on both clocks. `realised` stands between a
plan and a launch that differs from it, with the causes. Some 30 us per step, hence on request only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from niyama.engines.vllm import compat
from niyama.engines.vllm.steplog import Lines
from niyama.settings import Settings

FORMAT = "niyama-decisions"
VERSION = 1
"""A reader refuses a version that it does not know."""


class DecisionLog(Lines):
    """Appends to a file, a line per call."""

    def __init__(self, path: str, settings: Settings, engine: Mapping[str, object]) -> None:
        super().__init__(path, "decision log")
        self.write_line(
            {
                "call": "start",
                "format": FORMAT,
                "version": VERSION,
                "settings": settings.to_mapping(),
                "engine": engine,
                "wall_at": time.time(),
                "monotonic_at": time.monotonic(),
            }
        )

    def realised(self, causes: Mapping[str, int]) -> None:
        """Write in what the launch differs from its plan, by cause; nothing if in nothing."""
        if causes:
            self.write_line({"call": "realised", "causes": causes})


def open_decision_log(settings: Settings, scheduler: Any, vllm_version: str) -> DecisionLog | None:
    """Return the log that the settings ask for, if they do."""
    if settings.decision_log is None:
        return None
    engine = {
        "vllm": vllm_version,
        "num_kv_tokens": compat.num_free_kv_tokens(scheduler),
        "block_tokens": int(scheduler.block_size),
        "max_num_seqs": int(scheduler.max_num_running_reqs),
        "max_num_batched_tokens": int(scheduler.max_num_scheduled_tokens),
        "is_async": bool(scheduler.scheduler_config.async_scheduling),
    }
    return DecisionLog(settings.decision_log, settings, engine)
