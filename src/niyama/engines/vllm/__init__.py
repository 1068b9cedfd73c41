"""Niyama inside stock vLLM: `--scheduler-cls niyama.engines.vllm.scheduler`.

`scheduler` is what vLLM calls to make its scheduler; nothing is imported from vLLM before that.
"""

from __future__ import annotations

from typing import Any

__all__ = ["scheduler"]


def scheduler(**kwargs: Any) -> Any:
    """Return vLLM's scheduler with our policy in it, of the kind (async or not) that vLLM wants.

    vLLM calls this in the engine process with the arguments of its own scheduler class
    (vllm/v1/engine/core.py). Settings come from `--additional-config '{"niyama": {...}}'`, else
    from the environment as `niyama serve` sets it.

    Raises:
        SettingsError: the settings are not usable; one line naming the field.
        UnsupportedVllmError: this vLLM is unknown and `allow_untested_vllm` is not set.
    """
    from niyama.engines.vllm.factory import make_scheduler

    return make_scheduler(**kwargs)
