"""How fast a machine was from moment to moment, as a run's own steps show it.

A shared machine is a tenth faster or slower from one minute to the next, and near saturation a few per
cent of speed move every latency many times as much. A twin that takes its machine's speed over time from
the run shows what is left: the errors of the model.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import median

from niyama.bench.serverlog import Step
from niyama.latency.calibrated import StepTime
from niyama.latency.stepfit import STALLED

WINDOW_S = 5.0
"""Long enough for a hundred steps of a small model, so that one long step is no slow machine."""

FEW_SHARE = 0.25
"""A window with less than this share of the usual number of steps, such as the last one, says too little."""


class MachineSpeed:
    """Actual over predicted time of steps, by windows of a few seconds.

    What a step took beyond twice its prediction was a stall, which a calibration has apart. A moment without
    clean steps, or with few, is as the window before it, one before the first as the first.

    Args:
        steps: Of a run; those that are not clean do not count.
        usual: What they would take on the machine as it was calibrated.
        window_s: Width of a window, seconds, > 0.
    """

    def __init__(self, steps: Iterable[Step], usual: StepTime, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        actual_s: defaultdict[int, float] = defaultdict(float)
        usual_s: defaultdict[int, float] = defaultdict(float)
        num_steps: Counter[int] = Counter()
        for step in steps:
            if step.is_clean and step.duration_s > 0:
                window, predicted_s = self._window(step.started_at), usual.predict_s(step.shape)
                actual_s[window] += min(step.duration_s, STALLED * predicted_s)
                usual_s[window] += predicted_s
                num_steps[window] += 1
        enough = FEW_SHARE * median(num_steps.values()) if num_steps else 0.0
        self._windows = sorted(window for window in actual_s if num_steps[window] >= enough)
        self._slowness = [actual_s[window] / usual_s[window] for window in self._windows]

    @property
    def slowest(self) -> float:
        """The longest that a window's steps took, as a multiple of what is usual; 1 if there are none."""
        return max(self._slowness, default=1.0)

    @property
    def fastest(self) -> float:
        """The shortest, likewise."""
        return min(self._slowness, default=1.0)

    def slowness(self, now_s: float) -> float:
        """Return how many times as long as usual steps take at an instant, > 0. O(log windows)."""
        if not self._windows:
            return 1.0
        place = bisect_right(self._windows, self._window(now_s)) - 1
        return self._slowness[max(0, place)]

    def to_mapping(self) -> dict[str, float]:
        """Return what a report says of it."""
        return {"window_s": self.window_s, "fastest": self.fastest, "slowest": self.slowest}

    def _window(self, now_s: float) -> int:
        return int(now_s // self.window_s)
