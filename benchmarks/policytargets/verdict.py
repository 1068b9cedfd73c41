"""What a part finds: targets, each with its bound and what came out, and the tables behind them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Target(NamedTuple):
    """One promise of the policy.

    Attributes:
        text: What is to be, and where.
        bound: As text, with its number.
        found: As text, with its number.
    """

    text: str
    bound: str
    found: str
    is_met: bool


class Table(NamedTuple):
    """Numbers behind targets, as text."""

    title: str
    headers: list[str]
    rows: list[list[str]]


class Part(NamedTuple):
    """What one part found."""

    title: str
    targets: list[Target]
    tables: list[Table]

    def record(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "title": self.title,
            "targets": [target._asdict() for target in self.targets],
            "tables": [table._asdict() for table in self.tables],
        }


def at_least(text: str, found: float, bound: float, unit: str = "/s") -> Target:
    """Return the target that a number is no smaller than a bound; a hair of rounding is forgiven."""
    return Target(text, f">= {bound:.3f}{unit}", f"{found:.3f}{unit}", found >= bound - 1e-9)


def at_most(text: str, found: float, bound: float) -> Target:
    """Return the target that a share is no larger than a bound."""
    return Target(text, f"<= {bound:.2%}", f"{found:.2%}", found <= bound + 1e-12)


def ratio(ours: float, theirs: float) -> float:
    """Return how many times theirs ours is; infinite over nothing, 1 if both are nothing."""
    if theirs > 0:
        return ours / theirs
    return 1.0 if ours == 0 else float("inf")
