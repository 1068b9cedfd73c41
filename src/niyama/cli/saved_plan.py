"""Plans that were saved: their inputs, the files these name, and whether a new run gives the same."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from niyama.cli import UsageError
from niyama.wording import one_line, shown

_NOT_COMPARED = ("wall_s", "version", "differs", "notes")

_ADDED = ("limits",)
"""What plans of older versions lack; compared with those that have it."""


class _Inputs(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(one_line(f"inputs: {message}"))


def read_saved(path: str) -> dict[str, Any]:
    """Return a saved result. Raises UsageError if the file has none."""
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(one_line(f"--from {path}: cannot read: {error.strerror}")) from None
    except ValueError as error:
        raise UsageError(one_line(f"--from {path}: not JSON: {error}")) from None
    if not isinstance(saved, dict) or not isinstance(saved.get("inputs"), dict):
        raise UsageError(one_line(f"--from {path}: no inputs in it; allowed: the JSON of niyama plan"))
    return saved


class _Noting(argparse.Action):
    """In front of an action: notes that the option was given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *given: Any, **named: Any
    ) -> None:
        namespace.given = [*namespace.given, self.option_strings[0]]
        super().__call__(parser, namespace, *given, **named)


class _Noted(_Noting, argparse._StoreAction):
    pass


class _NotedTrue(_Noting, argparse._StoreTrueAction):
    pass


def note_given(parser: argparse.ArgumentParser) -> None:
    """Let a parser note the options that it is given, of those that are added from now on, in `given`."""
    parser.set_defaults(given=[])
    for name, action in ((None, _Noted), ("store", _Noted), ("store_true", _NotedTrue)):
        parser.register("action", name, action)


def check_alone(args: argparse.Namespace) -> None:
    """Refuse options beside `--from` that the saved plan has. Raises UsageError."""
    given = [option for option in dict.fromkeys(args.given) if option != "--json"]
    if given:
        raise UsageError(
            one_line(f"--from {args.saved}: the file has every input; leave out {', '.join(given)}")
        )


def saved_inputs(
    saved: dict[str, Any], path: str, add_inputs: Callable[[argparse.ArgumentParser], None]
) -> argparse.Namespace:
    """Return a saved result's inputs as parsed options. Raises UsageError naming one that is bad."""
    parser = _Inputs(add_help=False, allow_abbrev=False)
    add_inputs(parser)
    words: list[str] = []
    for option, value in saved["inputs"].items():
        if value is True:
            words.append(option)
        elif isinstance(value, (str, int, float)) and value is not False:
            words.append(f"{option}={value}")
        elif value is not None and value is not False:
            raise UsageError(
                one_line(f"--from {path}: inputs: {option}: {shown(value)} is no option's value")
            )
    try:
        return parser.parse_args(words)
    except UsageError as error:
        raise UsageError(one_line(f"--from {path}: {error}")) from None


def file_digests(args: argparse.Namespace) -> dict[str, str]:
    """Return the SHA-256 of every file that the options name, by option."""
    named = {"--trace": args.trace, "--qos": args.qos}
    return {
        option: hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for option, path in named.items()
        if path is not None and Path(path).is_file()
    }


def differences(saved: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Return the names of what a new result has otherwise than the saved one.

    Time and version aside, and the notes, which follow from the inputs.
    """
    again = json.loads(json.dumps(result))
    passed_over = {*_NOT_COMPARED, *(name for name in _ADDED if name not in saved)}
    names = [name for name in {**saved, **again} if name not in passed_over]
    return [name for name in names if saved.get(name) != again.get(name)]
