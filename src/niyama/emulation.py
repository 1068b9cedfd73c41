"""Emulated GPU timing: which device to imitate, how much faster, and the promises that go with it.

A worker (`niyama.engines.vllm.emulated`) takes the time of a latency profile in place of computing.
Everything runs `speedup` times faster than the profile says, so every promise shrinks alike:
`scaled_book` is the one place where that happens.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from niyama.durations import MAX_DURATION_S
from niyama.latency import get_profile, kv_tokens, profile_names
from niyama.latency.profiles import is_profile_file
from niyama.qos import QosBook, Slo
from niyama.wording import listed, one_line, shown

EMULATION_VARIABLE = "NIYAMA_EMULATION"
"""Environment variable with the emulation as a JSON object."""

CONFIG_KEY = "niyama_emulation"
"""Key of vLLM's `--additional-config` with the same object."""

WORKER = "niyama.engines.vllm.emulated.EmulatedWorker"
"""vLLM's `--worker-cls`."""

EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""vLLM's `--distributed-executor-backend`: worker and scheduler in one process, as vLLM does on one GPU."""

DEFAULT_SPEEDUP = 8.0
MAX_SPEEDUP = 1000.0
BLOCK_TOKENS = 16
"""Tokens of a KV block on GPUs; vLLM's CPU platform would take 128."""

DEVICE_OPTIONS = (
    ("--worker-cls", WORKER),
    ("--distributed-executor-backend", EXECUTOR),
    ("--enforce-eager",),
    ("--block-size", str(BLOCK_TOKENS)),
)
"""What vLLM needs for an emulated device, option by option; a user may choose all but the worker."""

DEMO_CONTEXT = 16384
"""Context of the demo model where nothing is computed, so that its 8192 positions bind nobody."""

LONG_CONTEXT_VARIABLE = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
"""Lets vLLM serve a longer context than the model's."""

_KEYS = ("profile", "speedup", "kv_tokens", "async_scheduling", "step_log")


class EmulationError(ValueError):
    """An emulation that cannot be used; the text is one line: field, value, allowed."""


@dataclass(frozen=True, slots=True)
class Emulation:
    """A device to imitate.

    Attributes:
        profile: Name of the latency profile, such as `a100-80gb/llama-3-8b/tp1`, or of a profile file.
        speedup: How many times faster than the profile, > 0 and at most `MAX_SPEEDUP`.
        kv_tokens: Size of the KV cache in tokens, >= 1; None for what the profile's devices leave.
        async_scheduling: Schedule a step while the one before runs, as vLLM does on GPUs.
        step_log: File that gets one JSON line per step, asked and true duration; or None.

    Raises:
        EmulationError: a value is not usable.
    """

    profile: str
    speedup: float = DEFAULT_SPEEDUP
    kv_tokens: int | None = None
    async_scheduling: bool = True
    step_log: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be imitated."""
        self._check_profile()
        if not _is_number(self.speedup) or not 0 < self.speedup <= MAX_SPEEDUP:
            raise EmulationError(
                f"speedup: {shown(self.speedup)} is not a speed-up; allowed: a number > 0, "
                f"at most {MAX_SPEEDUP:g}"
            )
        self._check_kv_tokens()
        if not isinstance(self.async_scheduling, bool):
            raise EmulationError(
                f"async_scheduling: {shown(self.async_scheduling)} is not a truth value; allowed: true, false"
            )
        if self.step_log is not None and (not isinstance(self.step_log, str) or not self.step_log.strip()):
            raise EmulationError(f"step_log: {shown(self.step_log)} is not a path; allowed: a path, or null")

    def _check_profile(self) -> None:
        if not isinstance(self.profile, str) or not (
            self.profile in profile_names() or is_profile_file(self.profile)
        ):
            raise EmulationError(
                f"profile: {shown(self.profile)} is unknown; allowed: {listed(profile_names())}, "
                "or a file of `niyama calibrate`"
            )
        try:
            get_profile(self.profile)
        except ValueError as error:
            raise EmulationError(one_line(str(error))) from None

    def _check_kv_tokens(self) -> None:
        size = self.kv_tokens
        if size is None:
            try:
                kv_tokens(self.profile)
            except ValueError as error:
                raise EmulationError(one_line(str(error))) from None
        elif not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise EmulationError(
                f"kv_tokens: {shown(size)} is not a size; allowed: a whole number of tokens >= 1, or null"
            )

    @property
    def num_kv_tokens(self) -> int:
        """Size of the KV cache, tokens."""
        return kv_tokens(self.profile) if self.kv_tokens is None else self.kv_tokens

    @property
    def words(self) -> str:
        """What a report says of it."""
        return f"EMULATED step times of {self.profile}, {self.speedup:g} times faster"

    def to_json(self) -> str:
        """Return the emulation as the JSON object that `from_mapping` takes."""
        return json.dumps({key: getattr(self, key) for key in _KEYS}, separators=(",", ":"))

    @classmethod
    def from_mapping(cls, mapping: object) -> Emulation:
        """Return the emulation in a mapping; absent keys but `profile` keep their defaults.

        Raises:
            EmulationError: not a mapping, an unknown key, or a value that is not usable.
        """
        if not isinstance(mapping, Mapping) or "profile" not in mapping:
            raise EmulationError(
                f"{CONFIG_KEY}: {shown(mapping)} is not an emulation; allowed: a mapping with 'profile'"
            )
        for key in mapping:
            if key not in _KEYS:
                raise EmulationError(f"{CONFIG_KEY}: unknown key {shown(key)}; allowed: {listed(_KEYS)}")
        return cls(**mapping)

    @classmethod
    def from_environment(
        cls, additional_config: object, environ: Mapping[str, str] | None = None
    ) -> Emulation:
        """Return the emulation in vLLM's additional config, else in `NIYAMA_EMULATION`.

        Raises:
            EmulationError: neither holds one, or it is not usable.
        """
        if isinstance(additional_config, Mapping) and CONFIG_KEY in additional_config:
            return cls.from_mapping(additional_config[CONFIG_KEY])
        text = (os.environ if environ is None else environ).get(EMULATION_VARIABLE, "")
        try:
            return cls.from_mapping(json.loads(text))
        except (json.JSONDecodeError, RecursionError) as error:
            raise EmulationError(
                one_line(f"{EMULATION_VARIABLE}: not JSON: {error}; allowed: an object with 'profile'")
            ) from None


def emulated_words(vllm_config: Any) -> str | None:
    """Return what a report says of an engine with vLLM's config; None if it computes.

    Raises:
        EmulationError: it has our worker, and the emulation is not usable.
    """
    if vllm_config.parallel_config.worker_cls != WORKER:
        return None
    return Emulation.from_environment(vllm_config.additional_config).words


def scaled_book(book: QosBook, speedup: float) -> QosBook:
    """Return the book for a server that runs `speedup` times faster: every duration divided by it.

    Results are whole microseconds and never zero, so that they can be written in a QoS file.
    The floors of what clients may ask for in numbers shrink too; the numbers they send are taken
    as sent, in the time of the emulated server.
    """
    classes = {name: replace(c, slo=_scaled(c.slo, speedup)) for name, c in book.classes.items()}
    limits = replace(
        book.client_slos,
        min_ttft_s=_divided(book.client_slos.min_ttft_s, speedup),
        min_tbt_s=_divided(book.client_slos.min_tbt_s, speedup),
        min_ttlt_s=_divided(book.client_slos.min_ttlt_s, speedup),
    )
    return replace(book, classes=MappingProxyType(classes), client_slos=limits)


def _scaled(slo: Slo, speedup: float) -> Slo:
    parts = {name: getattr(slo, name) for name in ("ttft_s", "tbt_s", "ttlt_s")}
    return Slo(**{name: None if value is None else _divided(value, speedup) for name, value in parts.items()})


def _divided(duration_s: float, speedup: float) -> float:
    return min(max(round(duration_s / speedup, 6), 1e-6), MAX_DURATION_S)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
