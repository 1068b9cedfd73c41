"""What the scheduler tells the outside: cheap accumulators, drained over vLLM's utility RPC.

`Telemetry` lives in the engine process and is fed from the step path: a call costs O(1), a step
O(classes). The API process asks the scheduler twice a second for everything since the last time
(`Drained`) together with a snapshot (`State`), and turns both into `/metrics` and `/niyama/state`.

The contract, whatever the two processes run: ``call_utility_async("scheduler", verb)`` with verb
``"drain"`` answers a `Drain`, with verb ``"state"`` a `State`. Both are plain dicts, lists, strings
and finite numbers, so msgpack and JSON carry them unchanged.

Nothing grows without bound when nobody drains: counters are integers, samples are capped, and what
no longer fits is counted in `Drained.dropped`.
"""

from __future__ import annotations

from niyama.telemetry.collector import MAX_CAUSES, MAX_SAMPLES, Telemetry, finite
from niyama.telemetry.schema import (
    OUTCOMES,
    ClassEvents,
    ClassState,
    ClassTotals,
    Drain,
    Drained,
    Outcome,
    SloState,
    State,
    StepModelState,
)

__all__ = [
    "MAX_CAUSES",
    "MAX_SAMPLES",
    "OUTCOMES",
    "ClassEvents",
    "ClassState",
    "ClassTotals",
    "Drain",
    "Drained",
    "Outcome",
    "SloState",
    "State",
    "StepModelState",
    "Telemetry",
    "finite",
]
