"""The profile file of `niyama calibrate`: one JSON object, usable wherever a profile has a name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from niyama.latency.calibrated import CalibratedProfile, StepTime
from niyama.latency.spread import NO_SPREAD, NO_STALLS, Spread, Stalls
from niyama.wording import one_line, shown

FORMAT = "niyama-profile"
VERSION = 1

_COSTS = ("fixed", "per_token", "per_prompt_token")


class ProfileFileError(ValueError):
    """A profile file that cannot be used; the message is one line and names the file."""


@dataclass(frozen=True, slots=True)
class Delay:
    """A time between two instants of a request, seconds: `fixed + per_token·n + per_prompt_token·m`.

    Attributes:
        per_token: For each of the n output tokens of the engine's last step: how busy the server is.
        per_prompt_token: For each of the m tokens of the request's own prompt.
        spread: Of actual over that.
    """

    fixed: float = 0.0
    per_token: float = 0.0
    per_prompt_token: float = 0.0
    spread: Spread = NO_SPREAD

    def __post_init__(self) -> None:
        """Raise ValueError for a time that may be negative or infinite."""
        for name in _COSTS:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: {shown(value)} is not a time; give finite seconds >= 0")

    def expected_s(self, num_tokens: int, num_prompt_tokens: int = 0) -> float:
        """Return the time without its spread, seconds."""
        return self.fixed + self.per_token * num_tokens + self.per_prompt_token * num_prompt_tokens

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        costs = {name: getattr(self, name) for name in _COSTS}
        return {**costs, "spread": self.spread.to_mapping()}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Delay:
        """Return what `to_mapping` gave. Raises KeyError, TypeError, ValueError for anything else."""
        fixed, per_token, per_prompt_token = (float(mapping[name]) for name in _COSTS)
        return cls(fixed, per_token, per_prompt_token, Spread.from_mapping(mapping["spread"]))


NO_DELAY = Delay()


@dataclass(frozen=True, slots=True)
class HandOn:
    """How a step's tokens get from the engine to the clients.

    One process hands them on, a step after the other. It may be held up for a while; the steps that
    end meanwhile go out together, soon after.

    Attributes:
        idle: Time from the end of a step to its last token at the client, if all before it is through.
        behind: Otherwise: time from the last token of the step before.
        first_share: Part of that time after which the first token is at its client, 0 to 1.
        stalls: Of the process, on top of that, per second of the clock.
    """

    idle: Delay = NO_DELAY
    behind: Delay = NO_DELAY
    first_share: float = 1.0
    stalls: Stalls = NO_STALLS

    def __post_init__(self) -> None:
        """Raise ValueError for what is no share."""
        if not 0 <= self.first_share <= 1:
            raise ValueError(f"first_share: {shown(self.first_share)} is no share; give a number from 0 to 1")

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "idle": self.idle.to_mapping(),
            "behind": self.behind.to_mapping(),
            "first_share": self.first_share,
            "stalls": self.stalls.to_mapping(),
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> HandOn:
        """Return what `to_mapping` gave. Raises KeyError, TypeError, ValueError for anything else."""
        idle, behind = (Delay.from_mapping(mapping[name]) for name in ("idle", "behind"))
        return cls(idle, behind, float(mapping["first_share"]), Stalls.from_mapping(mapping["stalls"]))


AT_ONCE = HandOn()


@dataclass(frozen=True, slots=True)
class Overheads:
    """What lies between a client and the engine's steps.

    Attributes:
        send: From the client's sending to the API server's stamp: the connection, reading the body.
        take: From the stamp to where the scheduler can take the request in: tokenisation, hand-over,
            wake-up. The scheduler does so between steps; waiting for that is not in here.
        token: From a step's end to its tokens at the client: detokenisation, streaming.
    """

    send: Delay = NO_DELAY
    take: Delay = NO_DELAY
    token: HandOn = AT_ONCE

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {name: getattr(self, name).to_mapping() for name in self.__slots__}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Overheads:
        """Return what `to_mapping` gave. Raises KeyError, TypeError, ValueError for anything else."""
        send, take = (Delay.from_mapping(mapping[name]) for name in ("send", "take"))
        return cls(send, take, HandOn.from_mapping(mapping["token"]))


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that a profile file holds.

    Attributes:
        name: What was calibrated, for people.
        step: How long a step takes, host work between steps included.
        spreads: Of steps around that, by regime (`niyama.latency.stepfit.REGIMES`).
        stalls: Of the machine, on top of that.
        overheads: None if only step logs were there.
        errors: On held-out steps, by regime, of a fit that had not seen them.
        engine: What the server could hold, as its log says; may be empty.
        sources: What it was made from.
    """

    name: str
    step: StepTime
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    stalls: Stalls = NO_STALLS
    overheads: Overheads | None = None
    errors: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def profile(self, margin: float = 0.2) -> CalibratedProfile:
        """Return the step times as the policies and the simulator take them."""
        return CalibratedProfile(self.name, self.step, margin)

    def to_json(self) -> str:
        """Return the text of the file."""
        mapping = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "step": self.step.to_mapping(),
            "spreads": {name: spread.to_mapping() for name, spread in self.spreads.items()},
            "stalls": self.stalls.to_mapping(),
            "overheads": None if self.overheads is None else self.overheads.to_mapping(),
            "errors": self.errors,
            "engine": self.engine,
            "sources": list(self.sources),
        }
        return json.dumps(mapping, indent=1) + "\n"


def load_calibration(path: str | Path) -> Calibration:
    """Return what a profile file holds.

    Raises:
        ProfileFileError: it cannot be read, or is not one.
    """
    try:
        mapping = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileFileError(one_line(f"profile: {path}: cannot be read: {error.strerror}")) from None
    except ValueError as error:
        raise ProfileFileError(one_line(f"profile: {path}: not JSON: {error}")) from None
    if not isinstance(mapping, dict) or (mapping.get("format"), mapping.get("version")) != (FORMAT, VERSION):
        raise ProfileFileError(
            f"profile: {path}: no profile; give a file that `niyama calibrate` wrote (version {VERSION})"
        )
    try:
        return _from_mapping(mapping)
    except KeyError as error:
        raise ProfileFileError(f"profile: {path}: {error.args[0]}: missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ProfileFileError(one_line(f"profile: {path}: {error}")) from None


def _from_mapping(mapping: Mapping[str, Any]) -> Calibration:
    overheads = mapping["overheads"]
    return Calibration(
        name=str(mapping["name"]),
        step=StepTime.from_mapping(mapping["step"]),
        spreads={str(name): Spread.from_mapping(one) for name, one in mapping["spreads"].items()},
        stalls=Stalls.from_mapping(mapping["stalls"]),
        overheads=None if overheads is None else Overheads.from_mapping(overheads),
        errors=dict(mapping["errors"]),
        engine=dict(mapping["engine"]),
        sources=tuple(map(str, mapping["sources"])),
    )
