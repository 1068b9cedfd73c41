"""Who is compared: stock vLLM with its own policies, and our server with each of ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from niyama import demo_model
from niyama.bench.recordedrun import DECISIONS
from niyama.emulation import (
    DEMO_CONTEXT,
    DEVICE_OPTIONS,
    EMULATION_VARIABLE,
    LONG_CONTEXT_VARIABLE,
    WORKER,
    Emulation,
)
from niyama.scheduling.registry import POLICIES
from niyama.wording import listed, shown

STOCK = ("vllm-fcfs", "vllm-priority")
"""Stock vLLM, first come first served, and with the classes mapped to its priorities."""

CHUNKS = (256, 320, 512, 2048)
"""Tokens per step (`--max-num-batched-tokens`) of which stock vLLM gets the best."""

OUR_TOKENS, OUR_EMULATED_TOKENS = 2048, 8192
"""Most tokens per step of our server; its policies choose less."""

MAX_NUM_SEQS = 256

STEPS = "steps.jsonl"
"""Our step log, beside the decision log."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server configuration.

    Attributes:
        policy: One of `STOCK`, or one of our policies.
        chunk: Most tokens per step of stock vLLM; None for ours.
    """

    policy: str
    chunk: int | None = None

    @property
    def is_stock(self) -> bool:
        """Whether it is vLLM without us."""
        return self.policy in STOCK

    @property
    def carrier(self) -> str:
        """How its requests ask for their class (`niyama.bench.carriers`)."""
        return {"vllm-fcfs": "none", "vllm-priority": "priority"}.get(self.policy, "xargs")

    @property
    def key(self) -> str:
        """Name for files."""
        return self.policy if self.chunk is None else f"{self.policy}-{self.chunk}"


def check_policies(names: Sequence[str]) -> None:
    """Refuse a name that is neither stock vLLM nor one of our policies, and no name at all.

    Raises:
        ValueError: the name, and what is allowed.
    """
    known = (*STOCK, *sorted(POLICIES))
    if not names:
        raise ValueError(f"--policies: empty; allowed: {listed(known)}")
    for name in names:
        if name not in known:
            raise ValueError(f"--policies: {shown(name)} is unknown; allowed: {listed(known)}")
    if len(set(names)) < len(names):
        raise ValueError(f"--policies: {','.join(names)} names one twice; allowed: each once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The engine that all contestants run on.

    Attributes:
        model: A folder or a Hugging Face name; None for the demo model.
        emulation: The device to imitate, or None to compute.
        options: Further options of vLLM, the same for all.
    """

    model: str | None = None
    emulation: Emulation | None = None
    options: Sequence[str] = field(default_factory=list[str])

    @property
    def description(self) -> str:
        """What a report says of it."""
        model = "the demo model" if self.model is None else self.model
        if self.emulation is None:
            return f"vLLM computing {model}"
        return f"vLLM with {self.emulation.words}, SLOs divided alike; no model is computed"

    @property
    def our_tokens(self) -> int:
        """Most tokens per step of our server."""
        return OUR_TOKENS if self.emulation is None else OUR_EMULATED_TOKENS

    def environment(self) -> dict[str, str]:
        """Return what all servers get on top of this process's environment."""
        env = {"VLLM_LOGGING_LEVEL": "WARNING"}
        if self.model is None:
            env |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
        if self.emulation is not None:
            env[EMULATION_VARIABLE] = self.emulation.to_json()
            if self.model is None:
                env[LONG_CONTEXT_VARIABLE] = "1"
        return env

    def command(self, contestant: Contestant, port: int, qos: Path, logs: Path | None) -> list[str]:
        """Return the command that starts a contestant.

        Args:
            contestant: Which.
            port: Where it listens, on 127.0.0.1.
            qos: The QoS file, as the user would write it: an emulation divides it.
            logs: Folder for our step log and our decision log; None for neither. Stock vLLM has none.

        Raises:
            DemoModelError: the demo model cannot be made.
        """
        model = str(demo_model.make()) if self.model is None else self.model
        tokens = contestant.chunk or self.our_tokens
        common = ["--host", "127.0.0.1", "--port", str(port), "--max-num-batched-tokens", str(tokens)]
        common += ["--max-num-seqs", str(MAX_NUM_SEQS), *self._model_options()]
        common += [*self._device_options(common), *self.options]
        if contestant.is_stock:
            worker = [] if self.emulation is None else ["--worker-cls", WORKER]
            by_priority = contestant.policy == "vllm-priority"
            scheduling = ["--scheduling-policy", "priority"] if by_priority else []
            start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
            return [*start, *common, *worker, *scheduling]
        ours = [sys.executable, "-m", "niyama", "serve", model, "--policy", contestant.policy]
        if self.emulation is not None:
            ours += ["--emulate", self.emulation.profile, "--speedup", repr(self.emulation.speedup)]
            ours += ["--kv-tokens", str(self.emulation.num_kv_tokens)]
        written: list[str] = []
        if logs is not None:
            written = ["--step-log", str(logs / STEPS), "--decision-log", str(logs / DECISIONS)]
        return [*ours, "--qos", str(qos), *written, *common]

    def _model_options(self) -> list[str]:
        if self.model is not None:
            return []
        context = 8192 if self.emulation is None else DEMO_CONTEXT
        words = ["--served-model-name", demo_model.NAME, "--dtype", "float32"]
        return [*words, "--max-model-len", str(context), "--enforce-eager"]

    def _device_options(self, given: Sequence[str]) -> list[str]:
        """Return what an emulated device needs, for all servers alike, but for what is given anyway.

        The worker is not in it: our launcher brings it, and refuses another one.
        """
        names = {_option(word) for word in (*given, *self.options)}
        options = () if self.emulation is None else DEVICE_OPTIONS
        kept = [option for option in options if option[0] != "--worker-cls" and option[0] not in names]
        return [word for option in kept for word in option]


def _option(word: str) -> str:
    """Return the option that a word names, in vLLM's usual spelling: it takes underscores and `=` as well."""
    return word.partition("=")[0].replace("_", "-")
