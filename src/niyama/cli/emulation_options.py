"""`--emulate PROFILE`: a GPU's step times in place of computing, on the command line."""

from __future__ import annotations

import argparse
import os

from niyama.cli import UsageError
from niyama.cli.vllm_options import VllmOptions
from niyama.emulation import (
    DEFAULT_SPEEDUP,
    DEMO_CONTEXT,
    DEVICE_OPTIONS,
    EMULATION_VARIABLE,
    LONG_CONTEXT_VARIABLE,
    Emulation,
    EmulationError,
)

_EXCLUDED = ("--speculative-config", "--enable-lora", "--kv-transfer-config")
"""Options of vLLM that need a model that computes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--emulate` and what goes with it."""
    parser.add_argument(
        "--emulate",
        metavar="PROFILE",
        help="compute nothing: take the step times of this latency profile, such as "
        "a100-80gb/llama-3-8b/tp1, or of a file of `niyama calibrate`",
    )
    parser.add_argument(
        "--speedup",
        type=float,
        metavar="X",
        help=f"with --emulate: run X times faster, all SLOs divided alike (default: {DEFAULT_SPEEDUP:g})",
    )
    parser.add_argument(
        "--kv-tokens",
        type=int,
        metavar="N",
        help="with --emulate: size of the KV cache (default: what the profile's devices leave)",
    )


def read(args: argparse.Namespace) -> Emulation | None:
    """Return the emulation that is asked for, or None.

    Raises:
        UsageError: a value cannot be used, or `--emulate` is missing.
    """
    given = {
        name: value
        for name, value in (("speedup", args.speedup), ("kv_tokens", args.kv_tokens))
        if value is not None
    }
    if args.emulate is None:
        for name in given:
            raise UsageError(f"--{name.replace('_', '-')}: means nothing alone; allowed: with --emulate")
        return None
    try:
        return Emulation(args.emulate, **given)
    except EmulationError as error:
        text = str(error)
        name, _, rest = text.partition(":")
        option = "--emulate" if name == "profile" else f"--{name.replace('_', '-')}"
        raise UsageError(f"{option}:{rest}") from None


def apply(emulation: Emulation, options: VllmOptions, *, is_demo: bool) -> dict[str, str]:
    """Add vLLM's options for the emulation; return the environment for it.

    Raises:
        UsageError: the words for vLLM hold an option that excludes it.
    """
    for option in ("--worker-cls", *_EXCLUDED):
        if options.mentions(option):
            raise UsageError(f"{option}: cannot go with --emulate; allowed: without it, or no --emulate")
    for option in ("--tensor-parallel-size", "--pipeline-parallel-size"):
        if (size := options.get(option)) not in (None, "1"):
            raise UsageError(
                f"{option}: {size} cannot go with --emulate; allowed: 1, the profile says the parallelism"
            )
    for option, *values in DEVICE_OPTIONS:
        options.add_default(option, *values)
    options.add_default("--max-num-seqs", "256")
    options.add_default("--max-num-batched-tokens", "8192")
    env = {EMULATION_VARIABLE: emulation.to_json()}
    if is_demo:
        options.add_default("--max-model-len", str(DEMO_CONTEXT))
        env[LONG_CONTEXT_VARIABLE] = os.environ.get(LONG_CONTEXT_VARIABLE, "1")
    return env


def banner(emulation: Emulation) -> str:
    """Return the line that says what is imitated."""
    return (
        f"niyama: EMULATED: no model is computed; steps take the time of {emulation.profile} divided by "
        f"{emulation.speedup:g}, SLOs are divided alike, and answers are random words."
    )
