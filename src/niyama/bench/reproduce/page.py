"""A figure on paper: what it is called, where its numbers come from, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from niyama.bench.plots import colour, figure, save_png

TITLES = {
    "fcfs": "FCFS",
    "srpf": "SRPF",
    "edf": "EDF",
    "paper": "Paper's policy",
    "niyama": "Niyama",
    "interactive": "QoS1: TTFT 6 s, TBT 50 ms",
    "batch": "QoS2: TTLT 600 s",
    "background": "QoS3: TTLT 1800 s",
}
LINES = {"fcfs": ":", "srpf": "-.", "edf": "--", "paper": (0, (5, 1, 1, 1)), "niyama": "-"}
MARKERS = {"fcfs": "s", "srpf": "v", "edf": "D", "paper": "o", "niyama": "o"}


def title(name: str) -> str:
    """Return what a policy or a class is called in figures."""
    return TITLES.get(name, name)


def line(policy: str) -> dict[str, Any]:
    """Return how the line of a policy looks: told apart without colour, too."""
    return {
        "color": colour(policy),
        "linestyle": LINES.get(policy, "-"),
        "marker": MARKERS.get(policy, "o"),
        "markersize": 4.5,
        "linewidth": 2.6 if policy == "niyama" else 1.8,
        "label": title(policy),
    }


CHARACTERS_PER_INCH = 15
"""Of the note under a figure."""


class Finding(NamedTuple):
    """The paper's number beside ours.

    Attributes:
        claim: What is measured.
        paper: What the paper says.
        ours: What this run says.
        why: A sentence on the difference, or on there being none.
    """

    claim: str
    paper: str
    ours: str
    why: str


class Table(NamedTuple):
    """Numbers of a figure."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Page(NamedTuple):
    """Where a figure goes, its title, and the note under it."""

    path: Path
    title: str
    note: str

    @contextmanager
    def axes(self, width: float = 10.0, height: float = 5.0, **subplots: Any) -> Iterator[Any]:
        """Yield the axes of a new figure, and write it at the end."""
        with figure(figsize=(width, height), **subplots) as (canvas, axes):
            canvas.suptitle(self.title, x=0.01, ha="left", fontsize=14, fontweight="bold")
            yield axes
            note = fill(self.note, round(width * CHARACTERS_PER_INCH))
            canvas.supxlabel(note, x=0.01, ha="left", fontsize=8, color="#555555")
            save_png(canvas, self.path)


def percent(share: float) -> str:
    """Return a share as text; small ones with two digits, and never 0 for what is not."""
    if share == 0:
        return "0 %"
    if share < 0.0001:
        return "< 0.01 %"
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.1f} %"
