"""How many times faster than real time is the simulator, on one core, metrics on?

    python benchmarks/sim_speed.py [--hours 1] [--policies edf,niyama] [--profile]

Time is that of the processor, so that other load on the machine does not count. The targets are 3,600
with `edf` and 2,500 with `niyama`, on ShareGPT lengths at 1.9 requests per second, compiled (`make compile`).
With --profile, also which room and which function the time goes to: run it with NIYAMA_PURE=1, since the
profiler does not see compiled functions.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections import Counter
from pathlib import Path

from niyama import compiled
from niyama.qos import QosBook, QosClass, Slo, paper_book
from niyama.sim.report import report
from niyama.sim.run import Run, Setup, simulate
from niyama.workload.arrivals import poisson
from niyama.workload.generate import Workload, load_lengths

QPS = 1.9
TARGETS = {"edf": 3600, "niyama": 2500}
ROOMS = ("scheduling", "latency", "sim", "workload")
NUM_FUNCTIONS = 25


def sharegpt() -> Workload:
    """Return the paper's ShareGPT set-up: its first tier has 55 ms instead of 50."""
    tiers = {**paper_book().classes, "interactive": QosClass("interactive", Slo(ttft_s=6.0, tbt_s=0.055))}
    book = QosBook("interactive", tiers)
    return Workload(name="sharegpt", lengths=load_lengths("sharegpt"), book=book, arrivals=poisson)


def serve(policy: str, hours: float) -> Run:
    """Run the workload and compute every metric."""
    run = simulate(Setup(policy=policy), sharegpt().requests(QPS, round(hours * 3600 * QPS)))
    report(run, policy=policy, qps=QPS, criterion="strict")
    return run


def main() -> None:
    """Print a line per policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--policies", default="edf,niyama,paper,fcfs")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    print("compiled" if compiled.is_active() else "interpreted")
    for policy in args.policies.split(","):
        serve(policy, 0.02)
        began = time.process_time()
        run = serve(policy, args.hours)
        cpu_s = time.process_time() - began
        target = f", target {TARGETS[policy]:,}x" if policy in TARGETS else ""
        print(
            f"{policy}: {run.simulated_s / cpu_s:,.0f}x real time{target}; {run.num_steps:,} steps, "
            f"{1e6 * cpu_s / run.num_steps:.1f} us each"
        )
        if args.profile:
            show_profile(policy, args.hours)


def show_profile(policy: str, hours: float) -> None:
    """Print where the time goes; shares only, the profiler itself costs as much again."""
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(serve, policy, hours)
    rows: dict[tuple[str, int, str], tuple[int, int, float, float, object]]
    rows = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total_s = sum(row[2] for row in rows.values())
    by_room: Counter[str] = Counter()
    for (file, _, _), row in rows.items():
        room = next((room for room in ROOMS if f"niyama/{room}/" in file), "built-in and other")
        by_room[room] += row[2]  # type: ignore[assignment]
    print("  " + ", ".join(f"{room} {share / total_s:.0%}" for room, share in by_room.most_common()))
    ranked = sorted(rows.items(), key=lambda item: -item[1][2])
    for (file, line, name), (_, num_calls, own_s, all_s, _) in ranked[:NUM_FUNCTIONS]:
        where = f"{Path(file).name}:{line} {name}"
        print(f"  {own_s / total_s:6.1%} own {all_s / total_s:6.1%} in all {num_calls:>9,} calls  {where}")


if __name__ == "__main__":
    main()
