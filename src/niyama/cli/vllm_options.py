"""The vLLM server options on our command line: read where we must, else passed on unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import yaml

from niyama.cli import UsageError
from niyama.wording import shown

_ADDITIONAL = "--additional-config"


class VllmOptions:
    """Words for vLLM's own parser, with the spellings that it takes for the same option.

    vLLM reads `--max_model_len 8`, `--max-model-len=8` and a key of the file named by `--config`
    alike; the command line wins over the file, the last of several over the others
    (vllm/utils/argparse_utils.py).
    """

    def __init__(self, words: Iterable[str]) -> None:
        """Take the words; raises UsageError if they name a `--config` file that cannot be read."""
        self.words = list(words)
        self._file = _read_config(path) if (path := self._word_after("--config")) else {}

    def __contains__(self, option: str) -> bool:
        return any(_name(word) == option for word in self.words) or option in self._file

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

    def merge_additional_config(self, ours: Mapping[str, object]) -> None:
        """Put our object under the key `niyama` of vLLM's `--additional-config`.

        Raises:
            UsageError: the user's value is no JSON object, or holds that key already.
        """
        if dotted := self.starting_with(f"{_ADDITIONAL}."):
            raise UsageError(f"{dotted[0]}: not with niyama serve; allowed: {_ADDITIONAL} '{{...}}' as JSON")
        text = self.get(_ADDITIONAL)
        try:
            merged = {} if text is None else json.loads(text)
        except ValueError:
            merged = None
        if not isinstance(merged, dict):
            raise UsageError(f"{_ADDITIONAL}: {shown(text)} is not usable; allowed: a JSON object")
        if "niyama" in merged:
            raise UsageError(
                f"{_ADDITIONAL}: the key 'niyama' is set by niyama serve; allowed: its options instead"
            )
        self.remove(_ADDITIONAL)
        self.words += [_ADDITIONAL, json.dumps({**merged, "niyama": ours}, separators=(",", ":"))]

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
    if not word.startswith("--"):
        return ""
    head, dot, tail = word.partition("=")[0].partition(".")
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
