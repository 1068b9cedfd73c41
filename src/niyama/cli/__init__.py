"""The command `niyama`: one module per verb, each with `add_parser(subparsers)`.

A verb's parser sets `run`, a function of the parsed arguments that returns the exit status.
Verb modules import nothing heavy before `run`, so that `niyama --help` is quick and works
without vLLM.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from niyama import __version__
from niyama.wording import one_line

_VERBS = (
    "serve",
    "simulate",
    "capacity",
    "plan",
    "reproduce",
    "bench",
    "compare",
    "calibrate",
    "replay",
    "soak",
    "qos",
    "steps",
)  # in the order of the help


class UsageError(Exception):
    """Something the user has to change; the text is one line and says what is allowed."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; `--help` has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own if None) and return the exit status.

    0 is success, 2 bad input after one line on stderr; verbs may define others.
    """
    parser = _make_parser()
    args, unknown = parser.parse_known_args(argv)
    if hasattr(args, "vllm_words"):
        args.vllm_words = unknown
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status: int = args.run(args)
    except UsageError as error:
        print(f"niyama: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `niyama ... | head`
        sys.stderr.close()
        return 0
    return status


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="niyama",
        description="QoS-driven LLM inference on unmodified vLLM.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"niyama {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in _VERBS:
        import_module(f"niyama.cli.{verb}").add_parser(subparsers)
    return parser
