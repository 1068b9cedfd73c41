"""The two scheduler classes, one for synchronous and one for asynchronous scheduling, from one mixin."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import vllm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from niyama import compiled
from niyama.engines.vllm import compat
from niyama.engines.vllm.host import Host
from niyama.settings import Settings

logger = logging.getLogger(__name__)


class QosScheduling:
    """Steers a vLLM scheduler: wraps its methods, replaces none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        compat.check_scheduler(self)
        config = kwargs["vllm_config"]
        self.niyama = Host(self, with_own_logs(read_settings(config), config), vllm.__version__)

    def add_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Take in a request; ours hears of it before vLLM can run it."""
        self.niyama.arrive(request)
        return super().add_request(request, *args, **kwargs)  # type: ignore[misc]

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Plan the step, steer, let vLLM schedule, and take note of what it realised."""
        self.niyama.before_schedule()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        self.niyama.after_schedule(output)
        return output

    def update_from_output(
        self, scheduler_output: Any, model_runner_output: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Let vLLM take in the tokens, then tell the policy how the step went."""
        outputs = super().update_from_output(scheduler_output, model_runner_output, *args, **kwargs)  # type: ignore[misc]
        self.niyama.after_step(scheduler_output, model_runner_output)
        return outputs

    def get_grammar_bitmask(self, *args: Any, **kwargs: Any) -> Any:
        """Take note that a step is launched: vLLM asks for this as soon as it is (v1/engine/core.py)."""
        self.niyama.launched()
        return super().get_grammar_bitmask(*args, **kwargs)  # type: ignore[misc]

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        """End what we keep open, then vLLM's own."""
        self.niyama.books.close()
        return super().shutdown(*args, **kwargs)  # type: ignore[misc]

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self.niyama.preempted(request)
        return super()._preempt_request(request, *args, **kwargs)  # type: ignore[misc]

    def __call__(self, verb: str = "state") -> Any:
        """Answer vLLM's utility RPC `scheduler` (see `niyama.telemetry`)."""
        return self.niyama.answer(verb)


class NiyamaScheduler(QosScheduling, Scheduler):
    """Steered vLLM scheduler for engines without asynchronous scheduling."""


class NiyamaAsyncScheduler(QosScheduling, AsyncScheduler):
    """Steered vLLM scheduler for engines with asynchronous scheduling."""


def read_settings(vllm_config: Any) -> Settings:
    """Return the settings from `--additional-config`, else from the environment.

    Raises:
        SettingsError: they are not usable.
    """
    additional = vllm_config.additional_config
    ours = additional.get("niyama") if isinstance(additional, dict) else None
    return Settings.from_env() if ours is None else Settings.from_mapping(ours)


def with_own_logs(settings: Settings, vllm_config: Any) -> Settings:
    """Return settings with log files of this engine's own: with data parallelism the others write, too.

    Engine 0 writes the files as named, engine n FILE.n.
    """
    index = int(getattr(vllm_config.parallel_config, "data_parallel_index", 0))
    if not index:
        return settings
    step_log, decision_log = (
        None if path is None else f"{path}.{index}" for path in (settings.step_log, settings.decision_log)
    )
    return replace(settings, step_log=step_log, decision_log=decision_log)


def make_scheduler(**kwargs: Any) -> Scheduler:
    """Return the steered scheduler that fits this engine. See `niyama.engines.vllm.scheduler`."""
    config = kwargs["vllm_config"]
    compat.check_version(vllm.__version__, allow_untested=read_settings(config).allow_untested_vllm)
    is_async = bool(getattr(config.scheduler_config, "async_scheduling", False))
    made = NiyamaAsyncScheduler(**kwargs) if is_async else NiyamaScheduler(**kwargs)
    how = "compiled" if compiled.is_active() else "interpreted"
    name = made.niyama.policy.name
    logger.info("Niyama steers %s with policy %r (%s)", type(made).__mro__[2].__name__, name, how)
    return made
