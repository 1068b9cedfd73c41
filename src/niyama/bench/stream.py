"""Reads the stream of an answer: how many tokens came, when, and how it ended.

vLLM can say in every event how many output tokens there are so far (`continuous_usage_stats`), so
that a token without text and several tokens in one event count right. Those numbers are found in
the bytes; no JSON is parsed, for the client must not be what is measured. Of other servers an event with
text counts as one token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_COMPLETION = re.compile(rb'"completion_tokens":\s*(\d+)')
_PROMPT = re.compile(rb'"prompt_tokens":\s*(\d+)')
_FINISHED = re.compile(rb'"finish_reason":\s*"')
_DONE = b"data: [DONE]"


class AnswerStream:
    """The events of one answer. Feed it bytes as they come; it stamps them with the instant given."""

    __slots__ = (
        "_is_counted",
        "_tail",
        "error",
        "is_ended",
        "num_counts",
        "num_output_tokens",
        "num_prompt_tokens",
        "token_at",
    )

    def __init__(self, *, is_counted: bool) -> None:
        """Start before the first byte.

        Args:
            is_counted: Whether every event says how many tokens there are so far.
        """
        self._is_counted = is_counted
        self._tail = b""
        self.token_at: list[float] = []
        self.num_prompt_tokens: int | None = None
        self.num_output_tokens: int | None = None
        self.num_counts = 0
        self.is_ended = False
        self.error: str | None = None

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes that came at `now`, seconds from the start of the run."""
        if self._tail:
            data = self._tail + data
        end = data.rfind(b"\n") + 1
        self._tail = data[end:]
        if not end:
            return
        lines = data[:end]
        if b'"error"' in lines:
            self._find_error(lines)
        if self._is_counted:
            self._count(lines, now)
        else:
            self._read(lines, now)
        # A server may leave out [DONE], but not the reason why the answer ends.
        if not self.is_ended and (lines.rstrip().endswith(_DONE) or _FINISHED.search(lines)):
            self.is_ended = True

    def _count(self, lines: bytes, now: float) -> None:
        """Stamp the tokens that the last event has over what there was before."""
        place = lines.rfind(b'"completion_tokens":')
        found = None if place < 0 else _COMPLETION.match(lines, place)
        if found is None:
            return
        num_tokens = int(found[1])
        self.num_output_tokens = num_tokens
        self.num_counts += 1
        num_new = num_tokens - len(self.token_at)
        if num_new == 1:
            self.token_at.append(now)
        elif num_new > 1:
            self.token_at += [now] * num_new
        if self.num_prompt_tokens is None:
            prompt = _PROMPT.search(lines)
            self.num_prompt_tokens = None if prompt is None else int(prompt[1])

    def _read(self, lines: bytes, now: float) -> None:
        """Stamp every event with text in it as one token; take the totals where they come."""
        for line in lines.splitlines():
            event = _json(line)
            if event is None:
                continue
            usage = event.get("usage")
            if isinstance(usage, dict):
                self.num_prompt_tokens = usage.get("prompt_tokens")
                self.num_output_tokens = usage.get("completion_tokens")
            choices = event.get("choices")
            if isinstance(choices, list) and any(map(_has_text, choices)):
                self.token_at.append(now)

    def _find_error(self, lines: bytes) -> None:
        for line in lines.splitlines():
            error = (_json(line) or {}).get("error")
            if error:
                self.error = message_of(error)


def message_of(error: object) -> str:
    """Return the message of OpenAI's error object, or whatever is there instead, on one line."""
    text = error.get("message", error) if isinstance(error, Mapping) else error
    return " ".join(str(text).split())[:300]


def _json(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"data:"):
        return None
    try:
        event = json.loads(line[5:])
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _has_text(choice: object) -> bool:
    if not isinstance(choice, dict):
        return False
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    return any(delta.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls"))
