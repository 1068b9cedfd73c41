"""The `niyama_*` metrics: ordinary prometheus_client objects in the API process.

They are fed from what the scheduler's telemetry drains, so they appear on vLLM's own ``/metrics``
with one API process or several. `docs/metrics.md` says what each of them means.

Bucket edges are those of vLLM's own histograms, so that the two can be laid side by side, and the
SLOs of the classes: the share of requests within a class's SLO is read off a bucket, not estimated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from niyama.telemetry import OUTCOMES, ClassEvents, ClassState, Drained, SloState, State

_Metric = TypeVar("_Metric", Counter, Gauge, "BatchHistogram")

ENGINE_LABELS = ("model_name", "engine")
CLASS_LABELS = ("qos_class", *ENGINE_LABELS)

# vLLM's families time_to_first_token, inter_token_latency and request_latency.
TTFT_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TBT_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
TTLT_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
# Signed: a request that ends after its due time has negative slack.
_SLACK_EDGES_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0, 3600.0, 28800.0)
SLACK_BUCKETS_S = (*(-edge for edge in reversed(_SLACK_EDGES_S)), 0.0, *_SLACK_EDGES_S)
# Finer than TBT at the short end: a step of a small model takes a few milliseconds.
STEP_BUCKETS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
# The edge 0 tells the steps without prefill apart.
CHUNK_BUCKETS = (0, 1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class BatchHistogram(Histogram):
    """A histogram that takes many observations at the cost of one write per touched bucket."""

    def observe_many(self, observations: Iterable[tuple[float, int]]) -> None:
        """Observe values with their counts, as `observe` would one by one.

        Args:
            observations: Pairs of a finite value and how often it was seen, >= 0.
        Cost: O(pairs * log buckets), whatever the counts.
        """
        counts: dict[int, int] = {}
        total = 0.0
        for value, count in observations:
            bucket = bisect_left(self._upper_bounds, value)
            counts[bucket] = counts.get(bucket, 0) + count
            total += value * count
        for bucket, count in counts.items():
            self._buckets[bucket].inc(count)
        if counts:
            self._sum.inc(total)


class Metrics:
    """Every `niyama_*` metric of one server, registered from construction to `unregister`."""

    def __init__(
        self,
        slos: Mapping[str, SloState],
        model_name: str,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """Register the metrics.

        Args:
            slos: Promise of each class; its values become bucket edges.
            model_name: Value of the label that vLLM's own metrics carry, too.
            registry: Where to register; vLLM's ``/metrics`` shows the default one.

        Raises:
            ValueError: The registry holds a metric of one of these names already.
        """
        self._model_name = model_name
        self._registry = registry
        self._registered: list[Counter | Gauge | BatchHistogram] = []
        ttft_s, tbt_s, ttlt_s = (
            [slo[part] for slo in slos.values()] for part in ("ttft_s", "tbt_s", "ttlt_s")
        )
        self._add_request_metrics(
            _with_slos(TTFT_BUCKETS_S, ttft_s),
            _with_slos(TBT_BUCKETS_S, tbt_s),
            _with_slos(TTLT_BUCKETS_S, ttlt_s),
        )
        self._add_scheduling_metrics()
        self._add_step_metrics(_with_slos(STEP_BUCKETS_S, tbt_s))

    def unregister(self) -> None:
        """Take the metrics off the registry."""
        while self._registered:
            self._registry.unregister(self._registered.pop())

    def feed(self, engine: str, events: Drained, state: State) -> None:
        """Add what one engine's scheduler drained.

        Args:
            engine: The engine's label, as in vLLM's metrics.
            events: Since the last drain of this engine.
            state: The scheduler at the time of the drain.
        Cost: O(samples), two writes per sample at most.
        """
        where = (self._model_name, engine)
        for name, class_state in state["classes"].items():
            self._feed_class((name, *where), events["classes"][name], class_state)
        self._feed_steps(where, events["steps"])
        self.unknown_class.labels(*where).inc(events["unknown_class"])
        self.fallback_steps.labels(*where).inc(events["fallback"])
        self.dropped.labels(*where).inc(events["dropped"])
        for cause, count in events["realised"].items():
            self.plan_differences.labels(cause, *where).inc(count)
        model = state["step_model"]
        for gauge, value in (
            (self.alpha, state["alpha_s_per_token"]),
            (self.load, state["load"]),
            (self.step_error, model["mean_abs_error_share"]),
            (self.step_late, model["late_share"]),
        ):
            if value is not None:
                gauge.labels(*where).set(value)

    def _feed_class(self, labels: tuple[str, ...], events: ClassEvents, state: ClassState) -> None:
        for outcome in OUTCOMES:
            self.requests.labels(outcome, *labels).inc(events["outcomes"][outcome])
            relegated = self.relegated_finished.labels(outcome, *labels)
            relegated.inc(events["relegated_outcomes"][outcome])
        self.ttft.labels(*labels).observe_many((value_s, 1) for value_s in events["ttft_s"])
        self.ttlt.labels(*labels).observe_many((value_s, 1) for value_s in events["ttlt_s"])
        self.slack.labels(*labels).observe_many((value_s, 1) for value_s in events["slack_s"])
        self.tbt.labels(*labels).observe_many((gap_s, int(count)) for gap_s, count in events["gaps"])
        self.tbt_violations.labels(*labels).inc(events["tbt_violations"])
        self.relegated.labels(*labels).inc(events["relegated"])
        self.restored.labels(*labels).inc(events["restored"])
        self.held.labels(*labels).inc(events["held"])
        self.sat_out.labels(*labels).inc(events["sat_out"])
        self.queue_depth.labels(*labels).set(state["queued"])
        self.relegated_now.labels(*labels).set(state["relegated"])

    def _feed_steps(self, where: tuple[str, ...], steps: list[list[float]]) -> None:
        self.step.labels(*where).observe_many((period_s, 1) for period_s, _, _ in steps)
        self.predicted_step.labels(*where).observe_many((predicted_s, 1) for _, predicted_s, _ in steps)
        self.chunk.labels(*where).observe_many((tokens, 1) for _, _, tokens in steps)

    def _add_request_metrics(
        self, ttft_buckets: list[float], tbt_buckets: list[float], ttlt_buckets: list[float]
    ) -> None:
        by_outcome = ("outcome", *CLASS_LABELS)
        self.requests = self._counter("requests", "Requests that ended, by outcome", by_outcome)
        self.ttft = self._histogram("ttft_seconds", "Time to first token", CLASS_LABELS, ttft_buckets)
        self.tbt = self._histogram("tbt_seconds", "Time between tokens", CLASS_LABELS, tbt_buckets)
        self.ttlt = self._histogram("ttlt_seconds", "Time to last token", CLASS_LABELS, ttlt_buckets)
        self.slack = self._histogram(
            "deadline_slack_seconds",
            "Time left until due when a request ended; negative is late",
            CLASS_LABELS,
            SLACK_BUCKETS_S,
        )
        self.tbt_violations = self._counter(
            "tbt_violations", "Answers that fell behind their TBT", CLASS_LABELS
        )
        self.relegated_finished = self._counter(
            "relegated_requests_finished",
            "Requests that were relegated at least once and ended, by outcome",
            by_outcome,
        )

    def _add_scheduling_metrics(self) -> None:
        self.relegated = self._counter("relegated", "Relegations", CLASS_LABELS)
        self.restored = self._counter("restored", "Relegated requests taken back", CLASS_LABELS)
        self.held = self._counter(
            "held_prefill_steps", "Steps in which a started prefill was passed over", CLASS_LABELS
        )
        self.sat_out = self._counter(
            "sat_out_decode_steps", "Steps that a decode sat out for an urgent prefill", CLASS_LABELS
        )
        self.queue_depth = self._gauge("queue_depth", "Requests that have not started", CLASS_LABELS)
        self.relegated_now = self._gauge(
            "relegated_requests", "Requests that are relegated now", CLASS_LABELS
        )
        self.unknown_class = self._counter(
            "unknown_class", "Requests served in the default class for want of theirs", ENGINE_LABELS
        )
        self.alpha = self._gauge(
            "alpha_seconds_per_token", "Weight of remaining work in the priority", ENGINE_LABELS
        )
        self.load = self._gauge("load_ratio", "Demand over capacity, as estimated", ENGINE_LABELS)

    def _add_step_metrics(self, step_buckets: list[float]) -> None:
        self.chunk = self._histogram("chunk_tokens", "Prefill tokens in a step", ENGINE_LABELS, CHUNK_BUCKETS)
        self.step = self._histogram("step_seconds", "Duration of a step", ENGINE_LABELS, step_buckets)
        self.predicted_step = self._histogram(
            "predicted_step_seconds", "Predicted duration of a step", ENGINE_LABELS, step_buckets
        )
        self.step_error = self._gauge(
            "step_error_ratio", "Mean absolute error of the prediction over step time", ENGINE_LABELS
        )
        self.step_late = self._gauge(
            "step_late_ratio", "Share of steps longer than predicted plus margin", ENGINE_LABELS
        )
        self.fallback_steps = self._counter("fallback_steps", "Steps left to vLLM's own order", ENGINE_LABELS)
        self.plan_differences = self._counter(
            "plan_differences", "Differences between plan and realised step", ("cause", *ENGINE_LABELS)
        )
        self.dropped = self._counter(
            "telemetry_dropped", "Samples missing from the histograms", ENGINE_LABELS
        )

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...]) -> Counter:
        return self._add(Counter(f"niyama_{name}", meaning, labels, registry=self._registry))

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...]) -> Gauge:
        # One API process drains, so the newest value is the only true one.
        gauge = Gauge(
            f"niyama_{name}", meaning, labels, registry=self._registry, multiprocess_mode="mostrecent"
        )
        return self._add(gauge)

    def _histogram(
        self, name: str, meaning: str, labels: tuple[str, ...], buckets: Iterable[float]
    ) -> BatchHistogram:
        histogram = BatchHistogram(
            f"niyama_{name}", meaning, labels, registry=self._registry, buckets=tuple(buckets)
        )
        return self._add(histogram)

    def _add(self, metric: _Metric) -> _Metric:
        self._registered.append(metric)
        return metric


def _with_slos(buckets: Iterable[float], slos_s: Iterable[float | None]) -> list[float]:
    return sorted({*buckets, *(slo_s for slo_s in slos_s if slo_s is not None)})
