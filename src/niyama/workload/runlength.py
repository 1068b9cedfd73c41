"""How long a run is, measured by what it is to show: promises, and arrivals that come in periods."""

from __future__ import annotations

from niyama.workload.arrivals import Periodic
from niyama.workload.generate import Workload

LATE_AFTER_SLOS = 3
"""After so many times the longest promise an overloaded server is late: its queue has to build up."""

WHOLE = 0.99
"""Share of a period that counts as one: the last hundredth has neither the peak nor much of the mean."""


def occurring(workload: Workload) -> list[str]:
    """Return the classes that requests of a workload can have, in the order of the book."""
    drawn = {name for name, share in workload.class_shares.items() if share > 0}
    named = {row.qos_class for row in workload.lengths if row.qos_class}
    return [name for name in workload.book.classes if name in drawn | named]


def longest_slo_s(workload: Workload) -> float | None:
    """Return the longest TTFT or TTLT that is promised to a class that occurs, seconds."""
    slos = [workload.book.classes[name].slo for name in occurring(workload)]
    return max((part for slo in slos for part in (slo.ttft_s, slo.ttlt_s) if part is not None), default=None)


def period_of(workload: Workload) -> float | None:
    """Return after what time the rate of the arrivals repeats, seconds; None if it is level, or recorded."""
    return workload.arrivals.period_s if isinstance(workload.arrivals, Periodic) else None


def length_notes(
    arrivals_s: float, longest_s: float | None, asked_s: float, period_s: float | None
) -> list[str]:
    """Return what a run is too short to show, a sentence each; nothing if it is long enough.

    Args:
        arrivals_s: For how long requests arrive, seconds.
        longest_s: The longest promise, seconds; None if there is none.
        asked_s: For how long they were to arrive; the last one may come a little sooner.
        period_s: A period of the arrivals, seconds; None if they have none.
    """
    notes: list[str] = []
    if longest_s is not None and arrivals_s < LATE_AFTER_SLOS * longest_s:
        notes.append(
            f"requests arrived for {arrivals_s:.0f} s, the longest promise is {longest_s:g} s; "
            "an overloaded server needs about three times that long to be late"
        )
    if period_s is not None and asked_s < WHOLE * period_s:
        notes.append(
            f"the run covers {asked_s:.0f} s, less than a period of the arrivals, {period_s:g} s: "
            "the mean rate is not --qps, and the peak may not come"
        )
    return notes
