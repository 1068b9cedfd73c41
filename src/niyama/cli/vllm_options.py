"""The vLLM server options on our command line: read where we must, else passed on unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import yaml

from niyama.cli import UsageError

_ADDITIONAL = "--additional-config"

_SHORT = {
    "-ac": "--attention-config",
    "-asc": "--api-server-count",
    "-cc": "--compilation-config",
    "-dc": "--diffusion-config",
    "-dcp": "--decode-context-parallel-size",
    "-dp": "--data-parallel-size",
    "-dpa": "--data-parallel-address",
    "-dpb": "--data-parallel-backend",
    "-dpe": "--data-parallel-external-lb",
    "-dph": "--data-parallel-hybrid-lb",
    "-dpl": "--data-parallel-size-local",
    "-dpm": "--data-parallel-multi-port-external-lb",
    "-dpn": "--data-parallel-rank",
    "-dpp": "--data-parallel-rpc-port",
    "-dpr": "--data-parallel-start-rank",
    "-ep": "--enable-expert-parallel",
    "-n": "--nnodes",
    "-pcp": "--prefill-context-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-q": "--quantization",
    "-r": "--node-rank",
    "-sc": "--speculative-config",
    "-tp": "--tensor-parallel-size",
}
"""vLLM's short forms (vllm/engine/arg_utils.py)."""


class VllmOptions:
    """Words for vLLM's own parser, with the spellings that it takes for the same option.

    vLLM reads `--max_model_len 8`, `--max-model-len=8`, a short form such as `-tp 2` and a key of the
    file named by `--config` alike; the command line wins over the file, the last of several over the others
    (vllm/utils/argparse_utils.py).
    """

    def __init__(self, words: Iterable[str]) -> None:
        """Take the words; raises UsageError if they name a `--config` file that cannot be read."""
        self.words = list(words)
        self._file = _read_config(path) if (path := self._word_after("--config")) else {}

    def __contains__(self, option: str) -> bool:
        return any(_name(word) == option for word in self.words) or option in self._file

    def mentions(self, option: str) -> bool:
        """Whether the option is given, or a part of its value, as in `--speculative-config.method x`."""
        return option in self or bool(self.starting_with(f"{option}."))

    def starting_with(self, prefix: str) -> list[str]:
        """Return the options given whose names start with `prefix`."""
        names = [*map(_name, self.words), *self._file]
        return [name for name in names if name.startswith(prefix)]

    def get(self, option: str) -> str | None:
        """Return the option's value, its first one if it takes several, or None if it has none."""
        value = self._word_after(option)
        if value is None and (of_file := self._file.get(option)) is not None:
            first = of_file[0] if isinstance(of_file, list) and of_file else of_file
            value = first if isinstance(first, str) else json.dumps(first)
        return value

    def add_default(self, option: str, *values: str) -> None:
        """Give vLLM an option unless the user did."""
        if option not in self:
            self.words += [option, *values]

    def remove(self, option: str) -> None:
        """Take the option and its one value out of the words."""
        kept: list[str] = []
        skip = False
        for word in self.words:
            if not skip and _name(word) != option:
                kept.append(word)
            skip = not skip and _name(word) == option and "=" not in word
        self.words = kept

    def refuse_second_settings(self) -> None:
        """Refuse settings of ours in vLLM's `--additional-config`; our own options say them.

        Raises:
            UsageError: it holds the key `niyama`.
        """
        text = self.get(_ADDITIONAL) or "{}"
        try:
            has_ours = "niyama" in json.loads(text)
        except (TypeError, ValueError):
            has_ours = False  # vLLM says what is wrong with it
        if has_ours or any(
            name.startswith(f"{_ADDITIONAL}.niyama") for name in self.starting_with(_ADDITIONAL)
        ):
            raise UsageError(
                f"{_ADDITIONAL}: the key 'niyama' is not for niyama serve; allowed: its own options instead"
            )

    def _word_after(self, option: str) -> str | None:
        value = None
        for word, following in zip_longest(self.words, self.words[1:]):
            if _name(word) == option:
                value = word.partition("=")[2] if "=" in word else following
        return value


def split_model(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return MODEL, which comes first as with `vllm serve`, and the options behind it."""
    if words and not words[0].startswith("-"):
        return words[0], list(words[1:])
    return None, list(words)


def _name(word: str) -> str:
    """Return the option that a word names in vLLM's usual spelling, or "" for any other word."""
    head, dot, tail = word.partition("=")[0].partition(".")
    head = _SHORT.get(head, head)
    if not head.startswith("--"):
        return ""
    return head.replace("_", "-") + dot + tail


def _read_config(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise UsageError(f"--config {path}: cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: is not usable; allowed: a YAML mapping of vLLM options")
    return {_name(f"--{key}"): value for key, value in content.items()}
