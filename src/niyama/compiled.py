"""Hints to mypyc; nothing of it is needed, or does anything, where the modules run interpreted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

_Class = TypeVar("_Class", bound=type)

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(*attributes: str, **values: object) -> Callable[[_Class], _Class]:
        """Return a decorator that leaves a class as it is."""
        return lambda cls: cls


__all__ = ["mypyc_attr"]
