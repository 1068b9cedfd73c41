"""The accumulators that the step path feeds."""

from __future__ import annotations

import math
from collections.abc import Iterable

from niyama.telemetry.schema import OUTCOMES, ClassEvents, ClassTotals, Drained, Outcome

MAX_SAMPLES = 2048
"""Most samples kept per stream between two drains: 4,000 steps a second at two drains a second."""

MAX_CAUSES = 32
"""Most distinct causes of a realised difference; further ones are counted as ``other``."""


def finite(value: float | None) -> float | None:
    """Return the value, or None where JSON has no number for it (infinity, NaN)."""
    return value if value is not None and math.isfinite(value) else None


class Telemetry:
    """Collects what a scheduler has to tell. Not thread-safe: one engine process, one thread.

    Every method that takes a class raises KeyError for one that was not given to the constructor:
    the label set of the metrics is closed.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        """Start empty.

        Args:
            classes: Names of all QoS classes, in the order in which they are to be shown.
        """
        self._names = tuple(classes)
        self._totals = {name: dict.fromkeys(OUTCOMES, 0) for name in self._names}
        self._realised_total: dict[str, int] = {}
        self._fallback_total = 0
        self._reset()

    @property
    def fallback_total(self) -> int:
        """Steps left to vLLM's own order since the start."""
        return self._fallback_total

    @property
    def realised_total(self) -> dict[str, int]:
        """Differences between plan and realised step since the start, by cause; a copy."""
        return dict(self._realised_total)

    def totals(self, qos_class: str) -> ClassTotals:
        """Return how the class fared since the start."""
        count = self._totals[qos_class]
        ended = count["met"] + count["missed"]
        return {
            "met": count["met"],
            "missed": count["missed"],
            "aborted": count["aborted"],
            "attainment": count["met"] / ended if ended else None,
        }

    def step(self, period_s: float, predicted_s: float, chunk_tokens: int) -> None:
        """Note a finished engine step.

        Args:
            period_s: What it took, seconds, >= 0.
            predicted_s: What the plan said it would take, seconds.
            chunk_tokens: Prefill tokens in it, >= 0.
        """
        self._keep(self._steps, [period_s, predicted_s, chunk_tokens])

    def gaps(self, qos_class: str, gap_s: float, count: int) -> None:
        """Note that `count` requests of the class emitted a token `gap_s` after their last one."""
        if count > 0:
            self._keep(self._classes[qos_class]["gaps"], [gap_s, count])

    def tbt_violations(self, qos_class: str, count: int) -> None:
        """Note tokens that came after they were due."""
        self._classes[qos_class]["tbt_violations"] += count

    def relegated(self, qos_class: str) -> None:
        """Note a request that is set aside."""
        self._classes[qos_class]["relegated"] += 1

    def restored(self, qos_class: str) -> None:
        """Note a request that is taken back."""
        self._classes[qos_class]["restored"] += 1

    def held(self, qos_class: str, count: int) -> None:
        """Note started prefills that this step passes over."""
        self._classes[qos_class]["held"] += count

    def sat_out(self, qos_class: str, count: int) -> None:
        """Note decodes that sit this step out."""
        self._classes[qos_class]["sat_out"] += count

    def finished(
        self,
        qos_class: str,
        outcome: Outcome,
        ttft_s: float | None,
        ttlt_s: float | None,
        slack_s: float | None,
        was_relegated: bool,
    ) -> None:
        """Note the end of a request.

        Args:
            qos_class: Its class.
            outcome: ``met`` (every promise kept), ``missed`` or ``aborted``.
            ttft_s: Arrival to first token; None when there was none.
            ttlt_s: Arrival to last token; None when it did not finish.
            slack_s: Time left until its due time, negative is late; None when nothing was due.
            was_relegated: Whether it was ever set aside.
        """
        events = self._classes[qos_class]
        self._totals[qos_class][outcome] += 1
        events["outcomes"][outcome] += 1
        if was_relegated:
            events["relegated_outcomes"][outcome] += 1
        for samples, value_s in (
            (events["ttft_s"], ttft_s),
            (events["ttlt_s"], ttlt_s),
            (events["slack_s"], slack_s),
        ):
            if value_s is None:
                continue
            if len(samples) < MAX_SAMPLES and math.isfinite(value_s):
                samples.append(value_s)
            else:
                self._dropped += 1

    def unknown_class(self) -> None:
        """Note a request that named a class that is not in the book."""
        self._unknown_class += 1

    def fallback(self) -> None:
        """Note a step left to vLLM's own order because the policy raised."""
        self._fallback += 1
        self._fallback_total += 1

    def realised(self, cause: str, count: int) -> None:
        """Note differences between the plan and what the engine could realise of it."""
        if cause not in self._realised_total and len(self._realised_total) >= MAX_CAUSES:
            cause = "other"
        self._realised_total[cause] = self._realised_total.get(cause, 0) + count
        self._realised[cause] = self._realised.get(cause, 0) + count

    def drain(self) -> Drained:
        """Return everything since the last drain and start anew. Cost: O(classes)."""
        drained: Drained = {
            "steps": self._steps,
            "classes": self._classes,
            "unknown_class": self._unknown_class,
            "fallback": self._fallback,
            "realised": self._realised,
            "dropped": self._dropped,
            "totals": {name: self.totals(name) for name in self._names},
        }
        self._reset()
        return drained

    def _keep(self, samples: list[list[float]], sample: list[float]) -> None:
        if len(samples) < MAX_SAMPLES and all(map(math.isfinite, sample)):
            samples.append(sample)
        else:
            self._dropped += 1

    def _reset(self) -> None:
        self._steps: list[list[float]] = []
        self._classes: dict[str, ClassEvents] = {name: _no_events() for name in self._names}
        self._unknown_class = 0
        self._fallback = 0
        self._realised: dict[str, int] = {}
        self._dropped = 0


def _no_events() -> ClassEvents:
    return {
        "gaps": [],
        "tbt_violations": 0,
        "relegated": 0,
        "restored": 0,
        "held": 0,
        "sat_out": 0,
        "outcomes": dict.fromkeys(OUTCOMES, 0),
        "relegated_outcomes": dict.fromkeys(OUTCOMES, 0),
        "ttft_s": [],
        "ttlt_s": [],
        "slack_s": [],
    }
