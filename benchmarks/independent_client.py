"""Does `niyama bench` measure what other clients measure? The same trace by both, side by side.

A server gets the same requests at the same instants in turn from our client and from one that shares no
code with it: `vllm bench serve` (comes with vLLM) or NVIDIA's aiperf, which wants an environment of its
own:

    uv venv .aiperf && uv pip install --python .aiperf/bin/python aiperf

Turns alternate and each figure is the median over the turns, because the machine is never the same
twice; `noise` is how far our own turns are apart. Expected: TTFT and end-to-end p50, p90 and p99 within
5 %; status 1 if they are not. With the demo model that needs a quiet machine; `--server waiting` computes
nothing, so that only the clients differ.

    python benchmarks/independent_client.py [--client vllm|aiperf] [--aiperf PATH]
               [--server niyama|stock|waiting] [--qps 4] [--seconds 60] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from servers import free_port, serving
from waiting import waiting

from niyama import demo_model
from niyama.bench.planned import Lengths, Planned, make_plan
from niyama.bench.score import percentiles
from niyama.qos import paper_book
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Workload, load_lengths

BLOCK_TOKENS = 16
BOUND = 0.05
SHOWN = ("p50", "p90", "p99")

# The command `vllm bench` does not start with the CPU package; its module does.
VLLM_BENCH = (
    "import argparse, vllm.benchmarks.serve as bench\n"
    "parser = argparse.ArgumentParser()\n"
    "bench.add_cli_args(parser)\n"
    "bench.main(parser.parse_args())\n"
)

Figures = dict[str, dict[str, float | None]]
"""`ttft_s` and `ttlt_s`, each with its percentiles."""


def trace(args: argparse.Namespace) -> list[Planned]:
    """Return the requests that everybody sends."""
    workload = Workload(
        name=args.trace,
        lengths=load_lengths(args.trace),
        book=paper_book(),
        arrivals=poisson,
        seed=args.seed,
    )
    lengths = Lengths(scale=args.scale, max_prompt=2048, max_output=256, min_prompt=8)
    return make_plan(workload, args.qps, seconds=args.seconds, lengths=lengths).requests


def write_trace(requests: Sequence[Planned], path: Path, blocks: count[int]) -> None:
    """Write a Mooncake trace; every block of every prompt is one that no earlier trace had."""
    with path.open("w") as file:
        for request in requests:
            ids = [next(blocks) for _ in range(-(-request.num_prompt_tokens // BLOCK_TOKENS))]
            line = {
                "timestamp": round(1000 * request.due_at, 3),
                "input_length": request.num_prompt_tokens,
                "output_length": request.num_output_tokens,
                "hash_ids": ids,
            }
            file.write(json.dumps(line) + "\n")


def run_ours(url: str, path: Path, folder: Path) -> Figures:
    """Measure with `niyama bench`."""
    out = folder / "ours.json"
    words = ["--url", url, "--trace", str(path), "--arrivals", "recorded", "--carrier", "none"]
    words += ["--json", str(out), "--max-lag", "1000", "--out", str(folder / "ours")]
    _run([sys.executable, "-m", "niyama", "bench", *words], folder / "ours.log")
    result = json.loads(out.read_text())
    _check("niyama bench", result["requests"] - result["errors"]["count"], path)
    return {"ttft_s": result["ttft_s"]["all"], "ttlt_s": result["ttlt_s"]["all"]}


def run_vllm(url: str, path: Path, folder: Path) -> Figures:
    """Measure with `vllm bench serve`."""
    words = ["--backend", "openai", "--base-url", url, "--model", "demo"]
    words += ["--tokenizer", str(demo_model.make()), "--dataset-name", "timed_trace"]
    words += ["--dataset-path", str(path), "--timed-trace-sec-multiplier", "0.001", "--self-timed"]
    words += ["--timed-trace-chunk-hash-size", str(BLOCK_TOKENS), "--num-prompts", "1000000"]
    words += ["--ignore-eos", "--temperature", "0", "--num-warmups", "8", "--disable-tqdm"]
    words += [
        "--save-result",
        "--save-detailed",
        "--result-dir",
        str(folder),
        "--result-filename",
        "vllm.json",
    ]
    _run([sys.executable, "-c", VLLM_BENCH, *words], folder / "vllm.log")
    result = json.loads((folder / "vllm.json").read_text())
    _check("vllm bench serve", result["completed"], path)
    ends = [ttft + sum(itl) for ttft, itl in zip(result["ttfts"], result["itls"], strict=True)]
    return {"ttft_s": percentiles(result["ttfts"]), "ttlt_s": percentiles(ends)}


def run_aiperf(url: str, path: Path, folder: Path, command: str) -> Figures:
    """Measure with aiperf, which sends bodies that are written out in full."""
    bodies = folder / "bodies.jsonl"
    _write_bodies(path, bodies)
    out = folder / "aiperf"
    words = ["profile", "--model", "demo", "--url", url, "--endpoint-type", "completions", "--streaming"]
    words += ["--input-file", str(bodies), "--custom-dataset-type", "mooncake_trace", "--fixed-schedule"]
    words += ["--tokenizer", str(demo_model.make()), "--use-server-token-count", "--no-gpu-telemetry"]
    words += ["--no-server-metrics", "--ui", "none", "--output-artifact-dir", str(out)]
    _run([command, *words], folder / "aiperf.log")
    (export,) = out.rglob("profile_export.jsonl")
    metrics = [json.loads(line)["metrics"] for line in export.read_text().splitlines()]
    _check("aiperf", len(metrics), path)
    ttft = [entry["time_to_first_token"]["value"] / 1000 for entry in metrics]
    ends = [entry["request_latency"]["value"] / 1000 for entry in metrics]
    return {"ttft_s": percentiles(ttft), "ttlt_s": percentiles(ends)}


def _write_bodies(path: Path, bodies: Path) -> None:
    with bodies.open("w") as file:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            ids = [
                300 + (7 * block + place * place) % 1700 for block in entry["hash_ids"] for place in range(16)
            ]
            payload = {
                "model": "demo",
                "prompt": ids[: entry["input_length"]],
                "max_tokens": entry["output_length"],
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            file.write(json.dumps({"timestamp": entry["timestamp"], "payload": payload}) + "\n")


def _run(command: Sequence[str], log: Path) -> None:
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {log.read_text()[-2000:]}")


def _check(name: str, num_answered: int, path: Path) -> None:
    num = len(path.read_text().splitlines())
    if num_answered != num:
        raise RuntimeError(f"{name}: {num_answered} of {num} requests were answered")


def compare(args: argparse.Namespace, url: str, folder: Path) -> dict[str, Any]:
    """Run both clients in turn and return their figures."""
    requests, blocks = trace(args), count()
    clients: dict[str, Callable[[str, Path, Path], Figures]] = {
        "niyama": run_ours,
        args.client: run_vllm
        if args.client == "vllm"
        else lambda url, path, turn: run_aiperf(url, path, turn, args.aiperf),
    }
    turns: dict[str, list[Figures]] = {name: [] for name in clients}
    for number in range(args.repeats):
        for name, client in clients.items():
            turn = folder / f"{name}-{number}"
            turn.mkdir(parents=True, exist_ok=True)
            write_trace(requests, turn / "trace.jsonl", blocks)
            turns[name].append(client(url, turn / "trace.jsonl", turn))
            print(f"{name}: {json.dumps(turns[name][-1])}", file=sys.stderr)
    rows = []
    for metric in ("ttft_s", "ttlt_s"):
        for percentile in SHOWN:
            ours = [turn[metric][percentile] or 0.0 for turn in turns["niyama"]]
            theirs = [turn[metric][percentile] or 0.0 for turn in turns[args.client]]
            mine, other = statistics.median(ours), statistics.median(theirs)
            noise = (max(ours) - min(ours)) / mine
            rows.append(
                {
                    "metric": f"{metric} {percentile}",
                    "niyama": mine,
                    args.client: other,
                    "difference": mine / other - 1,
                    "noise": noise,
                }
            )
    return {"client": args.client, "requests": len(requests), "qps": args.qps, "rows": rows}


def main() -> int:
    """Compare and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--client", choices=("vllm", "aiperf"), default="vllm")
    parser.add_argument("--aiperf", default="aiperf", metavar="PATH", help="the command")
    parser.add_argument("--server", choices=("niyama", "stock", "waiting"), default="niyama")
    parser.add_argument("--url", help="a server that runs already, its model named demo")
    parser.add_argument("--trace", default="azure-conv")
    parser.add_argument("--qps", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = Path(mkdtemp(prefix="niyama-independent-"))
    if args.url:
        server = nullcontext(args.url)
    elif args.server == "waiting":
        server = waiting(free_port())
    else:
        server = serving(args.server, folder / "server.log")
    with server as url:
        result = compare(args, url, folder)
    print(f"{'':<12}{'niyama':>10}{args.client:>10}{'difference':>12}{'noise':>8}")
    for row in result["rows"]:
        print(
            f"{row['metric']:<12}{row['niyama']:>9.3f}s{row[args.client]:>9.3f}s"
            f"{row['difference']:>12.1%}{row['noise']:>8.1%}"
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(abs(row["difference"]) > BOUND for row in result["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
