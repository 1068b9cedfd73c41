"""Whether the hot modules run compiled; all of them run interpreted just as well.

`scripts/compile.py` compiles the MODULES with mypyc, from the same plain Python, into a folder
beside this file, and leaves there the fingerprint of their sources. Only if that is
still theirs are they imported from there: an edited source always runs as it is written.
With NIYAMA_PURE=1 in the environment all run interpreted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

MODULES = (
    "niyama.latency.leastsquares",
    "niyama.latency.lengths",
    "niyama.latency.margin",
    "niyama.latency.online",
    "niyama.latency.overlap",
    "niyama.latency.profiles",
    "niyama.latency.search",
    "niyama.scheduling.backlog",
    "niyama.scheduling.base",
    "niyama.scheduling.baselines",
    "niyama.scheduling.chunking",
    "niyama.scheduling.deadlines",
    "niyama.scheduling.gate",
    "niyama.scheduling.hybrid",
    "niyama.scheduling.ledger",
    "niyama.scheduling.limits",
    "niyama.scheduling.load",
    "niyama.scheduling.niyama",
    "niyama.scheduling.outline",
    "niyama.scheduling.pacing",
    "niyama.scheduling.paper",
    "niyama.scheduling.policy",
    "niyama.scheduling.priority",
    "niyama.scheduling.promises",
    "niyama.scheduling.relegation",
    "niyama.scheduling.shares",
    "niyama.scheduling.sitting",
    "niyama.scheduling.stalls",
    "niyama.sim.kv",
    "niyama.sim.live",
    "niyama.sim.pressure",
    "niyama.sim.replica",
    "niyama.telemetry.collector",
)
"""What every step runs through. They are compiled as one, so all or none of them are compiled."""

PACKAGE = Path(__file__).parent
FOLDER = PACKAGE / "_compiled"
FINGERPRINT = "fingerprint"
PURE = "NIYAMA_PURE"
INTERPRETED = "niyama runs interpreted, its core at half the speed; `make compile` in a clone compiles it"
"""What a report of timings says where nothing is compiled."""

_Class = TypeVar("_Class", bound=type)

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**attributes: bool) -> Callable[[_Class], _Class]:
        """Tell mypyc about a class; where it runs interpreted, the class is left as it is."""
        return lambda cls: cls


__all__ = ["FINGERPRINT", "FOLDER", "MODULES", "PACKAGE", "fingerprint", "is_active", "mypyc_attr", "prefer"]


def source(module: str) -> Path:
    """Return the source file of one of the MODULES."""
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def fingerprint() -> str:
    """Return what the compiled files depend on, as a hash: the sources and this Python."""
    found = sha256(EXTENSION_SUFFIXES[0].encode())
    for module in MODULES:
        found.update(source(module).read_bytes())
    return found.hexdigest()


class _Finder(MetaPathFinder):
    """Finds the compiled modules before Python finds their sources."""

    def __init__(self, folder: Path) -> None:
        suffix = EXTENSION_SUFFIXES[0]
        files = folder.rglob(f"*{suffix}")
        self._files = {str(f.relative_to(folder))[: -len(suffix)].replace(os.sep, "."): str(f) for f in files}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a compiled module is; None for every other one."""
        file = self._files.get(fullname)
        if file is None:
            return None
        return spec_from_file_location(fullname, file, loader=ExtensionFileLoader(fullname, file))


def is_fresh() -> bool:
    """Whether there are compiled modules, and of these sources. About a millisecond."""
    try:
        return (FOLDER / FINGERPRINT).read_text(encoding="ascii") == fingerprint()
    except OSError:
        return False


def is_active() -> bool:
    """Whether the hot modules run compiled in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def prefer() -> None:
    """Import the hot modules compiled from now on, if they can be and nobody objects."""
    if os.environ.get(PURE, "0") in ("", "0") and not is_active() and is_fresh():
        sys.meta_path.insert(0, _Finder(FOLDER))
