"""The steps that vLLM has scheduled and not yet reported on: one, or two with asynchronous scheduling."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from niyama.latency.overlap import Lesson, Overlap
from niyama.scheduling.base import BasePolicy
from niyama.scheduling.policy import BatchShape, LatencyModel, Launch, Plan

PAUSE_S: Final = 0.1
"""An engine that launches nothing for so long after a step was not at work: paused, asleep, or without a
request for a moment. vLLM does not tell its scheduler."""


class InFlight(NamedTuple):
    """A step that has been launched; `output` is vLLM's SchedulerOutput, which tells the steps apart."""

    output: Any
    launch: Launch
    plan: Plan | None
    launched_at: float
    policy: BasePolicy


class Ended(NamedTuple):
    """A step that has ended, from when on the engine worked on it alone, and what it teaches."""

    step: InFlight
    started_at: float
    is_clean: bool
    lessons: Sequence[Lesson] | None


class Flight:
    """When steps begin and end, as far as one process can see.

    Args:
        model: Predicts what a step costs.
    """

    def __init__(self, model: LatencyModel) -> None:
        """Start with nothing in flight."""
        self._overlap = Overlap(model)
        self._steps: deque[InFlight] = deque()
        self._ended_at = float("-inf")
        self._launch_over_at = float("-inf")
        self._had_work = False

    def __len__(self) -> int:
        return len(self._steps)

    def starts_at(self, now_s: float) -> float:
        """Return when the next step will start: now, or when those in flight are expected to end.

        Counted from when the last step really ended: predictions must not add up over steps. The
        device may have begun the next one before.
        """
        if not self._steps:
            return now_s
        starts_at = max(self._ended_at - self._overlap.ahead_s, self._steps[0].launched_at)
        for step in self._steps:
            starts_at += step.plan.predicted_s if step.plan is not None else 0.0
        return max(now_s, starts_at)

    def max_tokens(self, room_s: float, most: int) -> int:
        """Return the most tokens, up to `most`, of a step whose launch takes at most `room_s`."""
        return self._overlap.max_tokens(room_s, most)

    def begin(self, step: InFlight) -> None:
        """Take note of a step that vLLM launches now."""
        self._steps.append(step)

    def launched(self, now_s: float) -> None:
        """The launch of the last step is over."""
        self._launch_over_at = now_s

    def take_lost(self, output: Any) -> list[InFlight]:
        """Remove and return the steps ahead of this one: an engine that recovered from a fault drops them."""
        if self._steps and self._steps[0].output is output:
            return []
        if not any([step.output is output for step in self._steps]):
            return []
        lost: list[InFlight] = []
        while self._steps[0].output is not output:
            lost.append(self._steps.popleft())
            self._overlap.forget()
        return lost

    def end(self, output: Any, now_s: float, *, has_work: bool) -> Ended | None:
        """Take note of a step's end.

        Args:
            output: vLLM's scheduler output.
            now_s: The end.
            has_work: Whether the engine goes on without a pause.

        Returns:
            The step; None if it is not the first in flight.
        """
        if not self._steps or self._steps[0].output is not output:
            return None
        step = self._steps.popleft()
        went_on = self._had_work and step.launched_at - self._ended_at <= PAUSE_S
        started_at = self._ended_at if went_on else max(step.launched_at, self._ended_at)
        shape = step.launch.shape
        is_clean = shape.num_prefill_tokens + shape.num_decode_tokens > 0
        lessons = None
        if is_clean:
            lessons = self._lessons(shape, now_s - started_at, now_s)
        else:
            self._overlap.forget()
        self._ended_at, self._had_work = now_s, has_work
        return Ended(step, started_at, is_clean, lessons)

    def _lessons(self, shape: BatchShape, duration_s: float, now_s: float) -> Sequence[Lesson] | None:
        """Return what to learn from a step that ended while the next may have been launched."""
        if not self._steps:
            return self._overlap.end(shape, duration_s, None, 0.0)
        following = self._steps[0]
        # Where sampling waits for a grammar, vLLM has not asked yet, and the launch's end is not known.
        is_known = self._launch_over_at >= following.launched_at
        launch_s = self._launch_over_at - following.launched_at if is_known else None
        waited_s = now_s - self._launch_over_at
        return self._overlap.end(shape, duration_s, following.launch.shape, launch_s, waited_s)
