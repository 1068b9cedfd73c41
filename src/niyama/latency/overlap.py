"""What steps cost where one is launched before the output of the one before is taken in.

Such an engine sees outputs, not steps. Launching step k + 1 holds the host, and the output of step
k with it, while the device may already work on k + 1:

    output of k = max(device done with k, launch of k + 1 over)

So the gap before an output is not the cost of its step. But where the next launch is short, as that
of decodes alone, the gaps up to there add up to what the steps of a run cost together: they are
learned as a run, each step with its share by prediction. And what the device has done of a
step before its gap began is known from how much longer the gap before it was than predicted.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from niyama.scheduling.policy import BatchShape, LatencyModel

MAX_RUN = 4
"""Most steps learned as one run: in a saturated engine every step has prefill, and no run ends."""

_LAUNCHES = 64
_LAUNCH_QUANTILE = 0.75

_PROMPT_S = 1e-3
_PROMPT_SHARE = 0.2
"""An output that comes so soon after a launch, or within this share of its time, may have been held by it."""


class Lesson(NamedTuple):
    """A step's shape and the duration to learn for it, seconds."""

    shape: BatchShape
    duration_s: float


class Overlap:
    """Follows overlapping steps; without overlap it changes nothing.

    Deterministic, no clock. Cost: some microseconds per overlapping step, next to nothing otherwise.

    Args:
        model: Predicts what a step costs; it is only asked, `end` says what it is to learn.

    Attributes:
        ahead_s: How much of the step now in flight was done before the last output came, by
            prediction, seconds, 0 to its predicted cost.
    """

    def __init__(self, model: LatencyModel) -> None:
        """Start with nothing in flight and no launch known."""
        self._model = model
        self._run: list[Lesson] = []
        self._launches: dict[int, _Launches] = {}
        self.ahead_s = 0.0

    def end(
        self,
        shape: BatchShape,
        duration_s: float,
        following: BatchShape | None,
        launch_s: float | None,
        waited_s: float = 0.0,
    ) -> Sequence[Lesson] | None:
        """Take note of a step's end.

        Args:
            shape: The step.
            duration_s: Since the output before, or since its launch if it came later.
            following: The next step, if it was launched before this output; None without overlap.
            launch_s: How long the launch of `following` took; None if that is not known, and then nothing is
                learned of launches.
            waited_s: Since when it has been over; 0 if that is not known.

        Returns:
            What is to be learned now, maybe nothing; None for this step alone, as it was seen.
        """
        ahead_s, self.ahead_s = self.ahead_s, 0.0
        holds = following is not None and following.num_prefill_tokens > 0
        if following is not None and holds and launch_s is not None:
            may_be_held = waited_s <= max(_PROMPT_S, _PROMPT_SHARE * launch_s)
            self._note_launch(shape, duration_s, following, launch_s if may_be_held else 0.0, ahead_s)
        elif not holds and not self._run:
            return None
        self._run.append(Lesson(shape, duration_s))
        if holds and len(self._run) < MAX_RUN:
            return ()
        run, self._run = self._run, []
        return self._shares(run) if len(run) > 1 else None

    def forget(self) -> None:
        """Drop the run in hand: one of its gaps says nothing of the cost."""
        self._run = []
        self.ahead_s = 0.0

    def launch_s(self, shape: BatchShape) -> float:
        """Return until when after its launch a step holds the output before it, seconds; 0 without prefill.

        The upper quartile of the last launches of that size; 0 if most held nothing.
        """
        if not self._launches or not shape.num_prefill_tokens:
            return 0.0
        return self._nearest(_octave(shape.num_prefill_tokens + shape.num_decode_tokens))

    def max_tokens(self, room_s: float, most: int) -> int:
        """Return the most tokens, up to `most`, of a step with prefill whose launch takes at most `room_s`.

        Launches cost by size, in octaves (what fits a captured graph is quick); an unknown octave
        counts as the nearest that is known, and with none known `most` is returned. May return 0.
        """
        if not self._launches:
            return most
        octave = _octave(most)
        while octave >= 0:
            if self._nearest(octave) <= room_s:
                return int(min(most, 2**octave))
            octave -= 1
        return 0

    def _note_launch(
        self, shape: BatchShape, duration_s: float, following: BatchShape, launch_s: float, ahead_s: float
    ) -> None:
        """Learn from an output that the launch of a step with prefill may have held for `launch_s`.

        Nothing is done ahead while the host waits: then the device was busy with this step, however wrong
        its prediction.
        """
        rest_s = max(0.0, self._model.predict_s(shape) - ahead_s)
        # An output that came when the device was expected to be done was held by no launch.
        is_held = launch_s > 0 and duration_s > rest_s + self._model.margin_s(rest_s)
        if not shape.num_prefill_tokens:
            # Behind other prefill the device may be what was waited for.
            octave = _octave(following.num_prefill_tokens + following.num_decode_tokens)
            self._launches.setdefault(octave, _Launches()).add(launch_s if is_held else 0.0)
        if is_held:
            self.ahead_s = min(duration_s - rest_s, launch_s, self._model.predict_s(following))

    def _nearest(self, octave: int) -> float:
        """Return the time of a launch of the nearest size that is known."""
        nearest = min(self._launches, key=lambda known: (abs(known - octave), known))
        return self._launches[nearest].usual_s

    def _shares(self, run: Sequence[Lesson]) -> list[Lesson]:
        """Divide the time of a run among its steps, by prediction."""
        predicted = [self._model.predict_s(step.shape) for step in run]
        ratio = math.fsum([step.duration_s for step in run]) / math.fsum(predicted)
        return [Lesson(step.shape, ratio * s) for step, s in zip(run, predicted, strict=True)]


class _Launches:
    """A running quantile of how long launches hold an output."""

    __slots__ = ("_in_order", "_in_time", "usual_s")

    def __init__(self) -> None:
        self._in_time: deque[float] = deque()
        self._in_order: list[float] = []
        self.usual_s = 0.0

    def add(self, launch_s: float) -> None:
        if len(self._in_time) == _LAUNCHES:
            self._in_order.remove(self._in_time.popleft())
        self._in_time.append(launch_s)
        insort(self._in_order, launch_s)
        self.usual_s = self._in_order[int(_LAUNCH_QUANTILE * (len(self._in_order) - 1))]


def _octave(num_tokens: int) -> int:
    """Return n for 2^(n - 1) < num_tokens <= 2^n."""
    return max(0, num_tokens - 1).bit_length()
