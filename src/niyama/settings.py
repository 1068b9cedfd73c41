"""What the scheduler and the server have to agree on, and how it crosses a process border.

`niyama serve` hands the settings to vLLM's processes as JSON in `NIYAMA_SETTINGS`, with the path of
the QoS file in place of a large one's content; without the launcher the same mapping comes from vLLM's
`--additional-config`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from niyama.qos import QosBook, paper_book
from niyama.qosfile import QosFileError, book_from_mapping, book_to_mapping, load_book
from niyama.wording import listed, one_line, shown

SETTINGS_VARIABLE = "NIYAMA_SETTINGS"
"""Environment variable with the settings as a JSON object."""

MAX_ENV_BYTES = 128 * 1024 - len(SETTINGS_VARIABLE) - 2
"""Longest value of that variable: with a longer one Linux starts no process (E2BIG)."""

Pacing = Literal["strict", "paper"]

_KEYS = (
    *("policy", "qos", "pacing", "step_log", "decision_log", "chunk"),
    *("allow_untested_vllm", "check_laws"),
)
_PACINGS = ("strict", "paper")


class SettingsError(ValueError):
    """Settings that cannot be used; the text is one line: field, value, allowed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to schedule, the same in every process of a server.

    Attributes:
        policy: Name of the scheduling policy; the registry of policies checks it.
        book: The QoS classes.
        pacing: What token deadlines are anchored at: the first token (`strict`) or
            arrival plus TTFT (`paper`).
        step_log: File that gets one JSON line per engine step, or None.
        chunk: Fixed chunk of the baseline policies, tokens >= 1; None for their own default.
        allow_untested_vllm: Run on a vLLM version that no test has seen.
        check_laws: Check the laws at every step, at O(requests); a broken one counts as a failure
            of the policy. For debug runs.
        decision_log: File that gets all that the policy is told and decides, or None.
    """

    policy: str = "niyama"
    book: QosBook = field(default_factory=paper_book)
    pacing: Pacing = "strict"
    step_log: str | None = None
    chunk: int | None = None
    allow_untested_vllm: bool = False
    check_laws: bool = False
    decision_log: str | None = None

    def to_mapping(self) -> dict[str, object]:
        """Return the settings as a JSON-able mapping that `from_mapping` takes."""
        return {
            "policy": self.policy,
            "qos": book_to_mapping(self.book),
            "pacing": self.pacing,
            "step_log": self.step_log,
            "decision_log": self.decision_log,
            "chunk": self.chunk,
            "allow_untested_vllm": self.allow_untested_vllm,
            "check_laws": self.check_laws,
        }

    @classmethod
    def from_mapping(cls, mapping: object) -> Settings:
        """Return the settings in a mapping; absent keys keep their defaults.

        `qos` is the path of a QoS file or the content of one as a mapping.

        Raises:
            SettingsError: an unknown key, a wrong type or value, or a bad QoS book.
        """
        if not isinstance(mapping, Mapping):
            raise SettingsError(f"settings: {shown(mapping)} is not a mapping; allowed: {listed(_KEYS)}")
        for key in mapping:
            if key not in _KEYS:
                raise SettingsError(f"settings: unknown key {shown(key)}; allowed: {listed(_KEYS)}")
        default = cls()
        return cls(
            policy=_text("policy", mapping.get("policy", default.policy), "the name of a policy"),
            book=_book(mapping["qos"]) if "qos" in mapping else default.book,
            pacing=_pacing(mapping.get("pacing", default.pacing)),
            step_log=_optional_text("step_log", mapping.get("step_log"), "the path of a file"),
            decision_log=_optional_text("decision_log", mapping.get("decision_log"), "the path of a file"),
            chunk=_chunk(mapping.get("chunk")),
            allow_untested_vllm=_truth("allow_untested_vllm", mapping.get("allow_untested_vllm", False)),
            check_laws=_truth("check_laws", mapping.get("check_laws", False)),
        )

    def to_env(self, qos_file: str | None = None) -> str:
        """Return the value of `NIYAMA_SETTINGS` that `from_env` reads as these settings.

        Args:
            qos_file: The file that holds the book. Where the book is too large for the environment,
                its path takes the book's place.

        Raises:
            SettingsError: too large, and no file to name.
        """
        mapping = self.to_mapping()
        text = json.dumps(mapping, separators=(",", ":"))
        if len(text) > MAX_ENV_BYTES and qos_file is not None and os.path.isfile(qos_file):
            text = json.dumps(mapping | {"qos": os.path.abspath(qos_file)}, separators=(",", ":"))
        if len(text) > MAX_ENV_BYTES:
            raise SettingsError(
                f"qos: the classes and tenants take {len(text)} bytes as JSON; allowed: {MAX_ENV_BYTES}, "
                "or more in a regular file that is served as it is, without --emulate"
            )
        return text

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings in `NIYAMA_SETTINGS`, or the defaults when it is unset or empty.

        Raises:
            SettingsError: the variable holds no JSON object that `from_mapping` takes.
        """
        text = (os.environ if environ is None else environ).get(SETTINGS_VARIABLE, "")
        if not text.strip():
            return cls()
        try:
            mapping = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SettingsError(
                one_line(f"{SETTINGS_VARIABLE}: not JSON: {error}; allowed: an object")
            ) from None
        return cls.from_mapping(mapping)


def _text(name: str, value: object, allowed: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise SettingsError(f"{name}: {shown(value)} is not a usable text; allowed: {allowed}")
    return value


def _optional_text(name: str, value: object, allowed: str) -> str | None:
    return None if value is None else _text(name, value, f"{allowed}, or null")


def _pacing(value: object) -> Pacing:
    if not isinstance(value, str) or value not in _PACINGS:
        raise SettingsError(f"pacing: {shown(value)} is not a pacing; allowed: {listed(_PACINGS)}")
    return cast(Pacing, value)


def _chunk(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingsError(
            f"chunk: {shown(value)} is not a chunk; allowed: a whole number of tokens >= 1, or null"
        )
    return value


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{name}: {shown(value)} is not a truth value; allowed: true, false")
    return value


def _book(value: object) -> QosBook:
    try:
        return load_book(value) if isinstance(value, str) else book_from_mapping(value)
    except QosFileError as error:
        raise SettingsError(f"qos: {error}") from None
