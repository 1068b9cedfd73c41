"""The times between two tokens of an answer, per class, told step by step.

Nearly all answers get a token from every step, so they are counted, not looked at. Only those that
pause (they sit out, lose their KV, or a token was discarded) are known by name until their next one.
A step costs O(classes + pauses). Steps may overlap: they begin and end in the same order. Two in flight
are told exactly; with more (pipelines), an answer that loses its KV and ends within them may count
a gap too many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from niyama.scheduling.policy import Launch, StepOutcome


class Gap(NamedTuple):
    """So many answers of a class got a token, so long after their last one."""

    qos_class: str
    seconds: float
    num_answers: int


class _Step:
    """A launched step: how many of each class get a token one step after the last, and who does not.

    Attributes:
        paused: Answers without a token in it.
        resumed: Answers with their first token after a pause.
        begun: Answers whose prefill ends in it.
    """

    __slots__ = ("begun", "counts", "paused", "resumed")

    def __init__(self, counts: dict[str, int], paused: set[str], resumed: set[str], begun: set[str]) -> None:
        self.counts = counts
        self.paused = paused
        self.resumed = resumed
        self.begun = begun


class TokenGaps:
    """Follows every answer from its first token to its last."""

    def __init__(self, classes: Iterable[str]) -> None:
        self._num_decoding = dict.fromkeys(classes, 0)
        self._class_of: dict[str, str] = {}
        self._decoding: set[str] = set()  # those of them that have not lost their KV
        self._paused: set[str] = set()  # decoding, but not in the last launch
        self._steps: deque[_Step] = deque()
        self._last_at: dict[str, float] = {}  # when the last token of a paused answer came
        self._ended_at = 0.0

    @property
    def num_followed(self) -> int:
        """How many answers are known by name."""
        return len(self._class_of.keys() | self._last_at.keys() | self._decoding | self._paused)

    def begin(self, launch: Launch, begun: Iterable[tuple[str, str]]) -> None:
        """Note a launch, and whose prefill ends in it, with their classes."""
        paused = self._decoding.intersection((*launch.preempted, *launch.stalled))
        resumed = self._paused - paused
        counts = dict(self._num_decoding)
        for request_id in paused | resumed:
            counts[self._class_of[request_id]] -= 1
        for request_id in paused.intersection(launch.preempted):
            self._leave(request_id)
        self._paused = paused & self._decoding
        classes = dict(begun)
        self._steps.append(_Step(counts, paused, resumed, set(classes)))
        for request_id, qos_class in classes.items():
            self._class_of[request_id] = qos_class
            self._decoding.add(request_id)
            self._num_decoding[qos_class] += 1

    def observe(self, outcome: StepOutcome) -> Iterator[Gap]:
        """Yield the gaps that end with the tokens of a step."""
        step, last_at, now_s = self._steps.popleft(), self._ended_at, outcome.ended_at
        self._ended_at = now_s
        for request_id in step.paused:
            self._last_at.setdefault(request_id, last_at)
        for request_id, num_tokens in outcome.extra_tokens.items():
            if request_id not in self._class_of:
                continue
            if num_tokens > 0:
                yield Gap(self._class_of[request_id], 0.0, num_tokens)
            else:
                self._miss(step, request_id, last_at)
        for request_id in (*step.resumed, *outcome.completed):
            paused_at = self._last_at.pop(request_id, None)
            if paused_at is not None:
                yield Gap(self._class_of[request_id], now_s - paused_at, 1)
        for qos_class, num_answers in step.counts.items():
            if num_answers:
                yield Gap(qos_class, now_s - last_at, num_answers)

    def end(self, request_id: str) -> None:
        """Forget an answer; the steps in flight have no token for it. Strangers pass."""
        if request_id not in self._class_of:
            return
        for step in reversed(self._steps):
            if request_id in step.begun:
                break
            if request_id in self._decoding:
                self._take_out(step, request_id)
            if request_id in step.paused:
                step.paused.remove(request_id)
        self._leave(request_id)
        self._last_at.pop(request_id, None)
        del self._class_of[request_id]

    def _miss(self, step: _Step, request_id: str, last_at: float) -> None:
        """Note that an answer got no token by the step that ends: its next one ends the gap."""
        self._take_out(step, request_id)
        self._last_at.setdefault(request_id, last_at)
        if request_id not in self._decoding:
            return
        following = next((later for later in self._steps if request_id not in later.paused), None)
        if following is None:
            self._paused.add(request_id)
        else:
            self._take_out(following, request_id)
            following.resumed.add(request_id)

    def _take_out(self, step: _Step, request_id: str) -> None:
        if request_id in step.resumed:
            step.resumed.remove(request_id)
        elif request_id not in step.paused:
            step.counts[self._class_of[request_id]] -= 1

    def _leave(self, request_id: str) -> None:
        if request_id in self._decoding:
            self._decoding.remove(request_id)
            self._paused.discard(request_id)
            self._num_decoding[self._class_of[request_id]] -= 1
