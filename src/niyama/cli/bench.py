"""`niyama bench`: put a live server under load and report who was late."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niyama.cli import UsageError
from niyama.cli.simulation_options import Progress, make_book, make_workload, write_json
from niyama.wording import listed, one_line, shown

if TYPE_CHECKING:
    from niyama.bench.client import Flight
    from niyama.bench.measure import Measured, Spec
    from niyama.qos import QosBook

INVALID = 1
"""Exit status of a run that does not count."""

DEFAULT_S = 60.0
"""For how long requests arrive, unless the command line says."""

KEY_VARIABLE = "OPENAI_API_KEY"

OUT_FILES = ("records.jsonl", "result.json", "report.html")
"""What a run leaves in its folder."""

_EPILOG = """The server may be any that speaks OpenAI's API, stock vLLM included. Requests go out at their
instants whatever the server does; a run in which this client fell behind is INVALID (status 1)."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `bench`."""
    parser = subparsers.add_parser(
        "bench", help="put a live server under load", description=__doc__, epilog=_EPILOG
    )
    parser.add_argument(
        "--url", required=True, metavar="URL", help="the server, such as http://127.0.0.1:8000"
    )
    add_load_options(parser)
    add_request_options(parser)
    parser.add_argument("--out", metavar="DIR", help="write records.jsonl, result.json and report.html there")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout, alone")
    parser.set_defaults(run=run)


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add what arrives, and how fast."""
    add = parser.add_argument
    add(
        "--trace",
        default="azure-conv",
        metavar="FILE|PRESET",
        help="lengths: azure-code, azure-conv (default), sharegpt, or a trace file, CSV or JSONL",
    )
    add("--qps", type=float, metavar="Q", help="requests per second, on average")
    add(
        "--load",
        type=float,
        metavar="X",
        help="the same as a share of what the server sustains, measured first",
    )
    add("--requests", type=int, metavar="N", help="how many requests arrive")
    add("--seconds", type=float, metavar="S", help=f"for how long they arrive (default: {DEFAULT_S:g})")
    add(
        "--arrivals",
        default="poisson",
        metavar="PROCESS",
        help="poisson, gamma:CV, square:LOW:HIGH:SECONDS, diurnal:SWING:SECONDS, recorded",
    )
    add("--qos", metavar="FILE", help="the classes (default: the server's own, or the paper's three)")
    add("--mix", default="", metavar="A=1,B=2", help="weights of the classes (default: equal)")
    add("--tenants", default="", metavar="A=1,B=2", help="weights of tenants")
    add("--seed", type=int, default=0)
    add(
        "--criterion", default="strict", metavar="C", help="when a request is late: strict, paper or artifact"
    )
    add("--scale-lengths", type=float, default=1.0, metavar="F", help="factor on prompt and output lengths")
    add("--max-prompt", type=int, metavar="N", help="longest prompt, tokens")
    add("--max-output", type=int, metavar="N", help="longest output, tokens")
    add("--saturation-seconds", type=float, default=45.0, metavar="S", help="how long --load is measured")
    add("--saturation-in-flight", type=int, default=128, metavar="N", help="with how many requests at once")


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add how a request is made, and when the run stops."""
    add = parser.add_argument
    add("--endpoint", default="completions", metavar="E", help="completions (default) or chat")
    add("--model", metavar="NAME", help="name in the requests (default: the first that the server lists)")
    add("--api-key", metavar="KEY", help=f"default: the environment's {KEY_VARIABLE}")
    add(
        "--carrier",
        default="auto",
        metavar="C",
        help="how requests ask for their class: xargs, header, slo, objective, service-tier, priority, none "
        "(default: xargs at a server with Niyama's scheduler, else none)",
    )
    add(
        "--shared-prefix",
        type=float,
        default=0.0,
        metavar="N",
        help="leading tokens that all prompts share, or below 1 the share of each prompt (default: none)",
    )
    add("--warmup", type=int, default=8, metavar="N", help="requests before the run, not scored (default: 8)")
    add(
        "--stop-after",
        type=int,
        default=20,
        metavar="N",
        help="errors in a row that end the run; 0 for never",
    )
    add(
        "--timeout",
        type=float,
        metavar="S",
        help="longest time for one answer (default: an hour, or four times the longest TTFT or TTLT)",
    )
    add(
        "--max-lag",
        type=float,
        default=25.0,
        metavar="MS",
        help="p99 of this client's own lateness, milliseconds, above which the run is INVALID (default: 25)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure; returns 0, or 1 for a run that does not count. Raises UsageError for bad input."""
    from niyama.bench.client import run_async
    from niyama.bench.measure import measure
    from niyama.bench.sender import ClientError
    from niyama.bench.target import TargetError
    from niyama.cli.checks import check_json

    check_json(args.json, args.out)
    out = _out_folder(args.out)
    try:
        spec = make_spec(args)
        progress = Progress("bench")
        done = run_async(measure(spec, tell=progress.show, progress=_shower(progress)))
        progress.end()
    except (ClientError, TargetError, ValueError) as error:
        raise UsageError(one_line(str(error))) from None
    if out is not None:
        write_folder(done, out)
    if args.json is not None:
        write_json(done.result, args.json)
    if args.json != "-":
        from niyama.bench.summary import describe

        print(describe(done.result))
    return 0 if done.result["valid"] else INVALID


def make_spec(args: argparse.Namespace) -> Spec:
    """Return what to measure; asks the server for its classes if there is no `--qos`.

    Raises:
        UsageError: an option is bad; names it.
        ClientError: aiohttp is missing.
        TargetError: nobody answers.
    """
    from niyama.bench.client import Rules
    from niyama.bench.measure import Spec
    from niyama.bench.planned import Lengths
    from niyama.bench.target import ENDPOINTS
    from niyama.sim.verdicts import CRITERIA

    _check(args)
    for option, value, known in (
        ("--criterion", args.criterion, CRITERIA),
        ("--endpoint", args.endpoint, ENDPOINTS),
    ):
        if value not in known:
            raise UsageError(f"{option}: {shown(value)} is unknown; allowed: {listed(known)}")
    api_key = args.api_key or os.environ.get(KEY_VARIABLE) or None
    args.low_share = 0.0
    workload = make_workload(args, _book(args, api_key))
    qps, num_requests = _amount(args, workload)
    return Spec(
        url=args.url,
        workload=workload,
        qps=qps,
        load=args.load,
        num_requests=num_requests,
        seconds=None if num_requests is not None else args.seconds or DEFAULT_S,
        model=args.model,
        endpoint=args.endpoint,
        api_key=api_key,
        carrier=args.carrier,
        lengths=Lengths(scale=args.scale_lengths, max_prompt=args.max_prompt, max_output=args.max_output),
        shared_prefix=args.shared_prefix,
        num_warmup=args.warmup,
        rules=Rules(
            max_lag_s=args.max_lag / 1000,
            max_consecutive_errors=args.stop_after,
            answer_limit_s=args.timeout,
        ),
        criterion=args.criterion,
        saturation_s=args.saturation_seconds,
        saturation_in_flight=args.saturation_in_flight,
        said={"arrivals": args.arrivals},
    )


_ABOVE_ZERO = (
    *("qps", "load", "requests", "seconds", "scale_lengths", "max_prompt", "max_output"),
    *("saturation_seconds", "saturation_in_flight", "timeout", "max_lag"),
)


def _check(args: argparse.Namespace) -> None:
    if not args.url.startswith(("http://", "https://")):
        raise UsageError(f"--url: {shown(args.url)} is no address; allowed: http://HOST:PORT")
    for name in _ABOVE_ZERO:
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')}: {value:g} is out of range; allowed: a number > 0")
    for name in ("shared_prefix", "warmup", "stop_after"):
        value = getattr(args, name)
        if not 0 <= value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')}: {value:g} is out of range; allowed: a number >= 0")
    for one, other in (("qps", "load"), ("requests", "seconds")):
        if getattr(args, one) is not None and getattr(args, other) is not None:
            raise UsageError(f"--{one} and --{other}: both are given; allowed: one of them")


def _book(args: argparse.Namespace, api_key: str | None) -> QosBook:
    from niyama.bench.client import run_async
    from niyama.bench.sender import open_session
    from niyama.bench.target import find_book

    async def ask() -> QosBook | None:
        async with open_session() as session:
            return await find_book(session, args.url, api_key)

    if args.qos is not None:
        return make_book(args)
    return run_async(ask()) or make_book(args)


def _amount(args: argparse.Namespace, workload: Any) -> tuple[float | None, int | None]:
    """Return rate and number of requests; a recorded trace has its own."""
    if args.qps is not None or args.load is not None:
        return args.qps, args.requests
    if args.arrivals != "recorded":
        raise UsageError(
            "--qps: not given; allowed: --qps, --load, or --arrivals recorded with a trace that has them"
        )
    instants = [row.arrived_at for row in workload.lengths]
    qps = (len(instants) - 1) / (instants[-1] - instants[0])
    return qps, args.requests or (None if args.seconds else len(instants))


def _out_folder(name: str | None) -> Path | None:
    """Return the folder for the results, made now: after a long run it is too late to fail."""
    if name is None:
        return None
    try:
        import_module("matplotlib")
    except ImportError:
        raise UsageError("--out: the report needs matplotlib: pip install 'niyama[bench]'") from None
    from niyama.cli.checks import check_folder

    folder = Path(name)
    check_folder(name, OUT_FILES, "--out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(one_line(f"--out {name}: cannot make the folder: {error.strerror}")) from None
    return folder


def write_folder(done: Measured, folder: Path) -> None:
    """Write the records, the result and the report of a run. Raises UsageError if they cannot be written."""
    from niyama.bench.records import write_records
    from niyama.bench.report import report_html

    try:
        write_records(folder / "records.jsonl", done.header, done.flight.records)
        (folder / "result.json").write_text(json.dumps(done.result, indent=2) + "\n", encoding="utf-8")
        page = report_html(done.header, done.flight.records, done.result)
        (folder / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(one_line(f"--out {folder}: cannot write: {error.strerror}")) from None


def _shower(progress: Progress) -> Callable[[Flight], None]:
    def show(flight: Flight) -> None:
        total, num_live = len(flight.records), flight.num_sent - flight.num_ended
        progress.show(
            f"{flight.num_sent:,} of {total:,} sent, {num_live:,} under way, {flight.num_errors:,} errors"
        )

    return show
