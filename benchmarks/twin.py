"""How close the twin comes: record, calibrate, replay what was not used for it, print the errors.

The demo model on this machine's CPU, real vLLM end to end. One server is recorded at each load to be
tested, others at several loads for the calibration: one before each test and one after the last, for a
shared machine is a tenth faster or slower from one minute to the next, and a request's median time at
load 0.85 moves four to six times as much. Load 1.0 is what stock vLLM sustains here, measured first.
SLOs follow the rule of `niyama compare`. Nothing else should run.

    python benchmarks/twin.py --out FOLDER [--loads 0.85,1.3] [--seconds 150] [--reuse]

Targets at load 0.85, twice as much at 1.3: end to end p50, p90, p99 within 7 %, TTFT p50, p90 within
15 %, shares in time within 2 points.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from servers import serving

from niyama.bench.calibrate import calibrate, describe, load_source
from niyama.bench.promises import measure_step_s, rule_book
from niyama.bench.prompts import learn_vocabulary
from niyama.bench.recordedrun import RECORDS, load_run
from niyama.bench.replay import replay
from niyama.bench.replayreport import describe as describe_replay
from niyama.bench.replayreport import draw
from niyama.bench.sender import open_session
from niyama.bench.target import find_target
from niyama.qos import QosBook
from niyama.qosfile import book_to_mapping

TARGETS = (
    *(("end to end", "ttlt_s", percent, 0.07) for percent in ("p50", "p90", "p99")),
    *(("TTFT", "ttft_s", percent, 0.15) for percent in ("p50", "p90")),
)
ATTAINMENT_TARGET = 0.02
CALIBRATION = "calibration"
EASY_LOAD = 1.0
"""Beyond this load the targets are twice as wide."""


def bench(url: str, folder: Path, *options: str) -> dict[str, Any]:
    """Run `niyama bench` in a process of its own, as a user would; return its result."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--url", url, "--trace", "azure-conv", "--scale-lengths", "0.25", *options]
    command = [sys.executable, "-m", "niyama", "bench", *words, "--out", str(folder)]
    done = subprocess.run([*command, "--json", str(folder / "bench.json")], stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"niyama bench failed with status {done.returncode}")
    result: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    if done.returncode == 1:
        print(f"{folder.name}: niyama bench calls this run invalid; see {folder}/bench.json", file=sys.stderr)
    return result


def measure_stock(folder: Path) -> tuple[float, float]:
    """Return what stock vLLM sustains, requests per second, and the step time of the SLO rule."""
    folder.mkdir(parents=True, exist_ok=True)
    with serving("stock", folder / "server.log") as url:
        bench(url, folder / "warm-up", "--qps", "5", "--requests", "40")
        result = bench(url, folder / "saturation", "--load", "0.3", "--seconds", "10")
        return float(result["workload"]["saturation_qps"]), asyncio.run(step_s(url))


async def step_s(url: str) -> float:
    """Return the step time of the SLO rule, seconds, at an idle server."""
    async with open_session() as session:
        target = await find_target(session, url, model=None, endpoint="completions", api_key=None)
        return await measure_step_s(session, target, await learn_vocabulary(session, target))


def write_book(folder: Path, book: QosBook) -> Path:
    """Write the promises as a QoS file."""
    path = folder / "qos.yaml"
    path.write_text(yaml.safe_dump(book_to_mapping(book), sort_keys=False), encoding="utf-8")
    return path


def record(folder: Path, qos: Path, runs: dict[str, tuple[float, float, int]]) -> None:
    """Serve afresh and record runs: by name, the rate, the seconds and the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "decisions.jsonl"
    log.unlink(missing_ok=True)
    with serving("niyama", folder / "server.log", qos, ["--decision-log", str(log)]) as url:
        for name, (qps, seconds, seed) in runs.items():
            print(f"recording {folder.name}/{name}: {qps:.2f} req/s, {seconds:.0f} s", file=sys.stderr)
            options = ("--qps", f"{qps:.4f}", "--seconds", f"{seconds:g}", "--seed", str(seed))
            bench(url, folder / name, *options, "--qos", str(qos), "--max-lag", "100")


def numbers(text: str) -> list[float]:
    """Return the numbers of a comma-separated list."""
    return [float(word) for word in text.split(",")]


def record_calibration(args: argparse.Namespace, folder: Path, qos: Path, qps: float, number: int) -> None:
    """Record one server at every load of the calibration."""
    seed = args.seed + number * len(args.calibration_loads)
    runs = {
        f"load-{load:g}": (load * qps, args.calibration_seconds, seed + offset)
        for offset, load in enumerate(args.calibration_loads)
    }
    record(folder / f"{CALIBRATION}-{number}", qos, runs)


def record_all(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Record everything, and what was measured before."""
    qps, slo_step_s = args.qps, args.step_s
    if qps is None or slo_step_s is None:
        measured_qps, measured_s = measure_stock(folder / "stock")
        qps, slo_step_s = qps or measured_qps, slo_step_s or measured_s
    folder.mkdir(parents=True, exist_ok=True)
    qos = write_book(folder, rule_book(slo_step_s))
    calibrate_around = partial(record_calibration, args, folder, qos, qps)
    for number, load in enumerate(args.loads):
        calibrate_around(number)
        seed = args.seed + 100 + number
        record(folder / f"test-{load:g}", qos, {"run": (load * qps, args.seconds, seed)})
    calibrate_around(len(args.loads))
    setup = {"sustained_qps": qps, "step_s": slo_step_s, "loads": args.loads, "seconds": args.seconds}
    (folder / "setup.json").write_text(json.dumps(setup, indent=1) + "\n")
    return setup


def verdicts(report: dict[str, Any], own: dict[str, Any], load: float) -> list[dict[str, Any]]:
    """Return each target of a run, the error that was reached, and that at the machine's own speed."""
    factor = 1.0 if load <= EASY_LOAD else 2.0

    def row(what: str, target: float, *path: str) -> dict[str, Any]:
        errors = [reduce(getitem, path, one["error"]) for one in (report, own)]
        return {"what": what, "target": factor * target, "error": errors[0], "at_own_speed": errors[1]}

    rows = [row(f"{label} {one}", target, metric, "all", one) for label, metric, one, target in TARGETS]
    for name in report["error"]["attainment"]["strict"]:
        rows.append(row(f"in time, {name}", ATTAINMENT_TARGET, "attainment", "strict", name))
    return [{**row, "is_met": abs(row["error"]) <= row["target"]} for row in rows]


def table(results: dict[str, Any]) -> str:
    """Return the errors as a Markdown table."""
    lines = [
        "| load | figure | error | target | met | at the machine's own speed |",
        "|---|---|---|---|---|---|",
    ]
    for load, result in results.items():
        for row in result["verdicts"]:
            met = "yes" if row["is_met"] else "no"
            cells = (load, row["what"], f"{row['error']:+.1%}", f"{row['target']:.0%}", met)
            lines.append(f"| {' | '.join(cells)} | {row['at_own_speed']:+.1%} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Record, calibrate, replay; returns 0 if every target is met, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for records, profile and report")
    parser.add_argument("--loads", type=numbers, default=[0.85, 1.3])
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--calibration-loads", type=numbers, default=[0.5, 0.85, 1.15])
    parser.add_argument("--calibration-seconds", type=float, default=45.0)
    parser.add_argument("--repeats", type=int, default=5, help="simulations per run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--qps", type=float, help="what stock sustains, if known")
    parser.add_argument("--step-s", type=float, help="the step time of the SLO rule, if known")
    parser.add_argument("--reuse", action="store_true", help="use what --out holds already; record nothing")
    args = parser.parse_args()
    folder = args.out.resolve()
    setup = json.loads((folder / "setup.json").read_text()) if args.reuse else record_all(args, folder)
    sources = sorted(path.parent for path in folder.glob(f"{CALIBRATION}-*/*/{RECORDS}"))
    calibration = calibrate([load_source(path) for path in sources], "twin")
    (folder / "profile.json").write_text(calibration.to_json())
    print(describe(calibration))
    results: dict[str, Any] = {}
    for load in setup["loads"]:
        run = load_run(folder / f"test-{load:g}" / "run")
        replayed = replay(run, calibration, repeats=args.repeats)
        own = replay(run, calibration, repeats=args.repeats, wants_own_speed=True)
        draw(replayed, folder / f"test-{load:g}.png")
        print(describe_replay(replayed.report), describe_replay(own.report), sep="\n")
        rows = verdicts(replayed.report, own.report, load)
        results[f"{load:g}"] = {"verdicts": rows, **replayed.report}
    (folder / "twin.json").write_text(json.dumps({"setup": setup, "loads": results}, indent=1) + "\n")
    print(table(results))
    return int(not all(row["is_met"] for result in results.values() for row in result["verdicts"]))


if __name__ == "__main__":
    raise SystemExit(main())
