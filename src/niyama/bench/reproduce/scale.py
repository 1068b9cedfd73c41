"""How long the runs are and how fine the searches: in full, or quick."""

from __future__ import annotations

from typing import NamedTuple


class Scale(NamedTuple):
    """Lengths of runs and steps of searches.

    Attributes:
        name: `full` or `quick`.
        capacity_hours: Length of a run that decides whether a load is served in time.
        other_hours: The same on the second and third model; 0 leaves these out.
        screen_hours: Length of the runs that find where to look; not above the former.
        resolution: Loads to choose from, up to the bound.
        load_hours: Length of a run at one load.
        fleet_hours: Length of a run of a whole fleet.
        loads: Requests per second for curves against load.
        alphas_ms: Static alphas to try, milliseconds per token.
    """

    name: str
    capacity_hours: float
    other_hours: float
    screen_hours: float
    resolution: int
    load_hours: float
    fleet_hours: float
    loads: tuple[float, ...]
    alphas_ms: tuple[float, ...]


FULL = Scale(
    name="full",
    capacity_hours=4.0,
    other_hours=2.0,
    screen_hours=0.5,
    resolution=50,
    load_hours=2.0,
    fleet_hours=2.0,
    loads=(1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5),
    alphas_ms=(0.0, 4.0, 8.0, 16.0, 32.0),
)
QUICK = Scale(
    name="quick",
    capacity_hours=0.5,
    other_hours=0.0,
    screen_hours=0.2,
    resolution=25,
    load_hours=0.4,
    fleet_hours=0.4,
    loads=(2.0, 3.0, 4.0, 5.0, 6.0),
    alphas_ms=(0.0, 8.0, 32.0),
)


def note(scale: Scale, hours: float | tuple[float, ...]) -> str:
    """Return how long the runs of a figure were, and a warning if they were quick."""
    lengths = hours if isinstance(hours, tuple) else (hours,)
    text = f"{lengths[0]:g} h of arrivals per run"
    if len(lengths) > 1:
        text += f" ({lengths[1]:g} h on the other models)"
    if scale.name == "quick":
        text = f"QUICK RUN, coarse: {text}; short runs flatter every policy"
    return text
