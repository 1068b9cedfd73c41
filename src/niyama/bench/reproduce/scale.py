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


def per_run(hours: float) -> str:
    """Return the length of runs for a caption."""
    return f"{hours:g} h of arrivals per run"


def two_lengths(scale: Scale) -> str:
    """Return the lengths of a figure's runs: searches of a capacity, and runs at one load."""
    if scale.capacity_hours == scale.load_hours:
        return per_run(scale.load_hours)
    return f"{per_run(scale.capacity_hours)} for capacities, {scale.load_hours:g} h for late requests"


def model_lengths(scale: Scale) -> str:
    """Return the lengths of searches on the first model and on the others, if there are others."""
    text = per_run(scale.capacity_hours)
    return text + (f" ({scale.other_hours:g} h on the other models)" if scale.other_hours else "")


def note(scale: Scale, lengths: str) -> str:
    """Return how long the runs of a figure were, and a warning if they were quick."""
    if scale.name == "quick":
        return f"QUICK RUN, coarse: {lengths}; short runs flatter every policy"
    return lengths
