"""How every picture looks: one colour per policy and per class, one size, one way to save it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICY_COLOURS = {
    "fcfs": "#9a9a9a",
    "vllm-fcfs": "#9a9a9a",
    "vllm-priority": "#5f6b7a",
    "priority": "#5f6b7a",
    "srpf": "#c9a227",
    "sjf": "#a0522d",
    "edf": "#2a9d8f",
    "paper": "#7b5ea7",
    "silo": "#e76f51",
    "niyama": "#0b62c4",
}
OTHER_COLOURS = ("#d1495b", "#66a182", "#edae49", "#00798c", "#8d96a3")
"""In turn, for what has no colour of its own: classes, ablations."""

STYLE: dict[str, Any] = {
    "figure.figsize": (8.0, 4.5),
    "figure.dpi": 150,
    "font.size": 12,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "niyama",
}


def colour(name: str, number: int = 0) -> str:
    """Return the colour of a policy, or the `number`-th of the others."""
    return POLICY_COLOURS.get(name, OTHER_COLOURS[number % len(OTHER_COLOURS)])


@contextmanager
def figure(**subplots: Any) -> Iterator[tuple[Figure, Any]]:
    """Yield a new figure and its axes in the house style, to be saved within the block.

    Args:
        subplots: What `matplotlib.pyplot.subplots` takes.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'niyama[bench]'") from None
    with mpl.rc_context(STYLE):
        canvas = Figure(layout="constrained", figsize=subplots.pop("figsize", None))
        yield canvas, canvas.subplots(**subplots)


def save_png(canvas: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same bytes."""
    canvas.savefig(path, format="png", metadata={"Software": None})


def data_uri(canvas: Figure) -> str:
    """Return a figure as an SVG image for the `src` of an HTML page that stands alone."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
