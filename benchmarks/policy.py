"""Does the policy reach its targets in the simulator? Every target, its bound, what came out.

Capacities under the paper's book and a tight one, other class mixes and seeds, overload against
the best static alpha for that very load, waves with unimportant requests, long prompts, the
paper's criterion, a fleet's routers, and silos: A100s with Llama-3-8B, criterion strict unless
said. Each simulation is kept in the folder, by what it depends on (the policy's sources among it),
so that a second call goes on where the first ended and simulates only what has changed. One
process; all but the fleet takes about an hour of one core with the hot modules compiled, the fleet
two more.

    python benchmarks/policy.py --out FOLDER [--parts tight,overload] [--traces DIR] [--seeds 3]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from policytargets import capacity, fleets, mixes, overload
from policytargets.capacity import Traces
from policytargets.runs import Runs
from policytargets.summary import PAGE, keep, setup_line, write
from policytargets.verdict import Part

from niyama.bench.reproduce.cases import find_traces

SHORTEN_QUICK = 8.0

NAMES = ("paper", "tight", "mixes", "overload", "waves", "long", "criterion", "fleet", "silos")


def parts(num_seeds: int) -> dict[str, Callable[[Runs, Traces], Part]]:
    """Return what finds each part, by name."""
    return {
        "paper": partial(capacity.part, book="paper"),
        "tight": partial(capacity.part, book="tight"),
        "mixes": partial(mixes.part, num_seeds=num_seeds),
        "overload": overload.part,
        "waves": overload.waves,
        "long": overload.long_prompts,
        "criterion": capacity.criterion,
        "fleet": fleets.routers,
        "silos": fleets.silos,
    }


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of results; made if need be")
    parser.add_argument("--parts", default=",".join(NAMES), help="which of them, comma-separated")
    parser.add_argument("--traces", type=Path, help="folder of real traces, as `niyama reproduce` has it")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per mix")
    parser.add_argument("--quick", action="store_true", help=f"runs {SHORTEN_QUICK:g} times shorter: a look")
    options = parser.parse_args(argv)
    options.parts = options.parts.split(",")
    for name in options.parts:
        if name not in NAMES:
            parser.error(f"--parts: {name!r} is unknown; allowed: {', '.join(NAMES)}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Find the parts that are asked for and write the page of all that the folder has."""
    options = arguments(argv)
    shorten = SHORTEN_QUICK if options.quick else 1.0
    traces = find_traces(options.traces)
    runs = Runs(options.out / "runs", shorten)
    finders = parts(options.seeds)
    for name in options.parts:
        keep(options.out, name, finders[name](runs, traces), setup_line(traces, shorten))
        write(options.out, NAMES)
    print(options.out / PAGE)


if __name__ == "__main__":
    main()
