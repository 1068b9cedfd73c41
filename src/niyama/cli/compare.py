"""`niyama compare`: our server against stock vLLM on this machine, the same requests to each."""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niyama import compiled
from niyama.cli import UsageError, emulation_options
from niyama.cli.simulation_options import make_book, write_json
from niyama.wording import listed, one_line, shown

if TYPE_CHECKING:
    from niyama.bench.compare import Comparison
    from niyama.emulation import Emulation
    from niyama.qos import QosBook

SATURATION_S, GPU_SATURATION_S = 45.0, 360.0

_EPILOG = """Each server runs in turn, alone. What is done stays in --out: the same command again goes on 
where it ended. Every option not listed here goes to vLLM, to all servers alike."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `compare`."""
    parser = subparsers.add_parser(
        "compare",
        help="compare with stock vLLM on this machine",
        usage="niyama compare --out DIR [options] [any vLLM server option]",
        description=__doc__,
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder for the runs, result.json and report.html")
    add(
        "--policies",
        default="vllm-fcfs,vllm-priority,edf,paper,niyama",
        metavar="A,B",
        help="vllm-fcfs, vllm-priority, or a policy of niyama serve (default: %(default)s)",
    )
    add(
        "--load",
        default="0.85,1.0,1.3,1.5",
        metavar="X,Y",
        help="loads of the scenario steady (default: %(default)s)",
    )
    add(
        "--scenario",
        default="steady",
        metavar="A,B",
        help="steady (default), square, alone, flood, backlog, low, or all",
    )
    add("--knee", action="store_true", help="search the highest load with every class at most 1 %% late")
    add("--chunks", metavar="A,B", help="of which stock vLLM gets the best (default: 256,320,512,2048)")
    add("--model", metavar="MODEL", help="a folder or a Hugging Face name (default: the demo model)")
    emulation_options.add_options(parser)
    add(
        "--qos",
        metavar="FILE",
        help="the classes (default: by rule from the step time; with --emulate the paper's)",
    )
    add("--book", metavar="NAME", help="built-in classes instead: paper or tight")
    add("--trace", metavar="FILE|PRESET", help="lengths (default: azure-conv; with --emulate azure-code)")
    add(
        "--scale-lengths", type=float, metavar="F", help="factor on lengths (default: 0.25; with --emulate 1)"
    )
    add("--seconds", type=float, metavar="S", help="SHORTEN every run, to try things out; the report says so")
    add("--repeats", type=int, default=1, metavar="N", help="runs of each kind, every one with its own seed")
    add("--seed", type=int, default=1)
    add(
        "--saturation-seconds",
        type=float,
        metavar="S",
        help="how long load 1 is measured (default: 45, longer for an emulated device at its own speed)",
    )
    add("--records", action="store_true", help="keep every request and every step")
    add("--json", metavar="FILE", help="write the result as JSON; - for stdout, alone")
    parser.set_defaults(run=run, vllm_words=[])


def run(args: argparse.Namespace) -> int:
    """Compare; returns 0. Raises UsageError for bad input and for a server that does not start."""
    from niyama.bench.compare import Comparer
    from niyama.bench.compareresult import as_text, write_result
    from niyama.bench.comparestore import Store, StoreError
    from niyama.bench.sender import ClientError
    from niyama.bench.servers import ServerError
    from niyama.bench.target import TargetError
    from niyama.cli.checks import check_json
    from niyama.demo_model import DemoModelError

    if find_spec("matplotlib") is None or find_spec("aiohttp") is None:
        raise UsageError("niyama compare needs aiohttp and matplotlib: pip install 'niyama[bench]'")
    check_json(args.json, args.out)
    what = make_comparison(args)
    if not compiled.is_active():
        _say(compiled.INTERPRETED)
    try:
        comparer = Comparer(what, Store(Path(args.out), settings_of(what)), _say)
        comparer.run()
        result = write_result(comparer)
    except (StoreError, ServerError, ClientError, TargetError, DemoModelError) as error:
        raise UsageError(one_line(str(error))) from None
    except OSError as error:
        raise UsageError(one_line(f"--out {args.out}: {error.strerror}")) from None
    if args.json is not None:
        write_json(result, args.json)
    if args.json != "-":
        print(as_text(result))
        print(f"report: {Path(args.out) / 'report.html'}")
    return 0


def make_comparison(args: argparse.Namespace) -> Comparison:
    """Return what to compare, from the command line.

    Raises:
        UsageError: an option cannot be used; names it.
    """
    from niyama.bench.compare import Comparison
    from niyama.bench.contestants import CHUNKS, Engine, check_policies
    from niyama.bench.planned import Lengths
    from niyama.bench.promises import RULE_TOKENS
    from niyama.bench.scenarios import SCENARIOS, Traffic, check_scenarios
    from niyama.qos import paper_book
    from niyama.workload.generate import load_lengths

    _check_numbers(args)
    emulation = emulation_options.read(args)
    policies = _words(args.policies)
    scenarios = list(SCENARIOS) if args.scenario == "all" else _words(args.scenario)
    book = _book(args, is_emulated=emulation is not None)
    chunks = CHUNKS if args.chunks is None else _whole_numbers("--chunks", args.chunks)
    if book is None and max(chunks) < RULE_TOKENS:
        raise UsageError(
            f"--chunks: the largest is {max(chunks)}, but the SLO rule measures a step of {RULE_TOKENS}; "
            f"allowed: {RULE_TOKENS} or more as the largest, or --qos FILE"
        )
    trace = args.trace or ("azure-conv" if emulation is None else "azure-code")
    scale = args.scale_lengths or (0.25 if emulation is None else 1.0)
    try:
        check_policies(policies)
        check_scenarios(scenarios)
        # The comparison puts its book in: by the SLO rule it is known after the first measurement.
        traffic = Traffic(
            trace=trace,
            rows=load_lengths(trace),
            lengths=Lengths(scale=scale),
            book=book or paper_book(),
            seed=args.seed,
            seconds=args.seconds,
            closed_s=args.saturation_seconds or closed_s(emulation),
        )
    except ValueError as error:
        raise UsageError(one_line(str(error))) from None
    return Comparison(
        engine=Engine(model=args.model, emulation=emulation, options=args.vllm_words),
        policies=policies,
        chunks=chunks,
        scenarios=scenarios,
        loads=_numbers("--load", args.load),
        wants_knee=args.knee,
        repeats=args.repeats,
        book=book,
        book_name=args.book or args.qos or ("rule" if book is None else "paper"),
        traffic=traffic,
        keeps_records=args.records,
    )


def closed_s(emulation: Emulation | None) -> float:
    """Return how long a closed loop lasts: the first answers take a GPU half a minute at its own speed."""
    return SATURATION_S if emulation is None else max(SATURATION_S, GPU_SATURATION_S / emulation.speedup)


def settings_of(what: Comparison) -> dict[str, Any]:
    """Return what all runs of a folder have in common."""
    from niyama.bench.compareresult import vllm_version
    from niyama.qosfile import book_to_mapping

    emulation = what.engine.emulation
    return {
        "model": what.engine.model or "demo",
        "emulation": None if emulation is None else emulation.to_json(),
        "vllm options": list(what.engine.options),
        "vllm": vllm_version(),
        "trace": what.traffic.trace,
        "scale": what.traffic.lengths.scale,
        "seed": what.traffic.seed,
        "seconds": what.traffic.seconds,
        "saturation seconds": what.traffic.closed_s,
        "classes": None if what.book is None else book_to_mapping(what.book),
    }


def _book(args: argparse.Namespace, *, is_emulated: bool) -> QosBook | None:
    """Return the classes as a user writes them; None for the rule."""
    from niyama.bench.promises import tight_book
    from niyama.qos import paper_book

    if args.qos is not None and args.book is not None:
        raise UsageError("--qos and --book: both are given; allowed: one of them")
    books = {"paper": paper_book, "tight": tight_book}
    if args.book is not None:
        if args.book not in books:
            raise UsageError(f"--book: {shown(args.book)} is unknown; allowed: {listed(books)}")
        return books[args.book]()
    return make_book(args) if args.qos is not None or is_emulated else None


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("seconds", "scale_lengths", "saturation_seconds", "repeats"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')}: {value:g} is out of range; allowed: a number > 0")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(option: str, text: str) -> list[float]:
    """Return the numbers > 0 of a list. Raises UsageError naming the option."""
    numbers: list[float] = []
    for word in _words(text):
        try:
            number = float(word)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise UsageError(f"{option}: {shown(word)} is out of range; allowed: numbers > 0, as in 1,2")
        numbers.append(number)
    if not numbers:
        raise UsageError(f"{option}: empty; allowed: numbers > 0, as in 1,2")
    return numbers


def _whole_numbers(option: str, text: str) -> list[int]:
    """Return the whole numbers >= 1 of a list. Raises UsageError naming the option."""
    words = _words(text)
    for word in words:
        if not (word.isascii() and word.isdecimal()) or int(word) < 1:
            raise UsageError(
                f"{option}: {shown(word)} is out of range; allowed: whole numbers >= 1, as in 256,512"
            )
    if not words:
        raise UsageError(f"{option}: empty; allowed: whole numbers >= 1, as in 256,512")
    return [int(word) for word in words]


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
