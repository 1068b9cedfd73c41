"""What a soak found: memory over time, every client accounted for, and what is wrong, if anything."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from niyama.bench.soakclient import Crowd

WARM_UP_SHARE = 0.25
"""This much of a run, from its start, says nothing about memory: caches and arenas fill."""

MOST_GROWTH_MIB = 24.0
MOST_GROWTH_SHARE = 0.05
"""Memory is flat if it grows by no more than the larger of the two, from the first to the last third
of what follows the warm-up."""

LIVE = ("queued", "prefilling", "decoding", "held", "relegated")


@dataclass(slots=True)
class Memory:
    """Resident memory of one process over a run.

    Attributes:
        samples: Seconds from the start, and MiB.
    """

    role: str
    pid: int
    samples: list[tuple[float, float]] = field(default_factory=list)

    def settled(self) -> list[tuple[float, float]]:
        """Return the samples after the warm-up."""
        last_s = self.samples[-1][0] if self.samples else 0.0
        return [sample for sample in self.samples if sample[0] >= WARM_UP_SHARE * last_s]

    def growth_mib(self) -> float:
        """Return by how much the median of the last third is above that of the first."""
        settled = [mib for _, mib in self.settled()]
        third = len(settled) // 3
        if not third:
            return 0.0
        return statistics.median(settled[-third:]) - statistics.median(settled[:third])

    def slope_mib_per_h(self) -> float:
        """Return the slope of the least-squares line after the warm-up, MiB per hour."""
        settled = self.settled()
        if len({at_s for at_s, _ in settled}) < 2:
            return 0.0
        line = statistics.linear_regression([at_s for at_s, _ in settled], [mib for _, mib in settled])
        return line.slope * 3600.0

    def is_flat(self) -> bool:
        """Whether it grew no more than caches may."""
        settled = self.settled()
        allowed_mib = max(MOST_GROWTH_MIB, MOST_GROWTH_SHARE * settled[0][1]) if settled else 0.0
        return self.growth_mib() <= allowed_mib

    def to_json(self) -> dict[str, Any]:
        """Return the figures, and one sample in a hundredth of the run."""
        every = max(1, len(self.samples) // 100)
        mib = [mib for _, mib in self.samples]
        return {
            "role": self.role,
            "pid": self.pid,
            "first_mib": round(mib[0], 1),
            "settled_mib": round(self.settled()[0][1], 1),
            "last_mib": round(mib[-1], 1),
            "peak_mib": round(max(mib), 1),
            "growth_mib": round(self.growth_mib(), 2),
            "slope_mib_per_h": round(self.slope_mib_per_h(), 2),
            "is_flat": self.is_flat(),
            "samples": [[round(at_s, 1), round(mib, 1)] for at_s, mib in self.samples[::every]],
        }


def accounts(crowd: Crowd, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return, per class, what the clients saw beside what the scheduler counted, in sequences.

    Args:
        crowd: The clients, all gone.
        before: `classes` of the state page when the first of them came.
        after: The same when the last had gone.
    """
    found: dict[str, dict[str, int]] = {}
    for name in after:
        counted = {
            key: int(after[name][key]) - int(before[name][key]) for key in ("met", "missed", "aborted")
        }
        found[name] = {
            "complete": crowd.complete[name],
            "left_reading": crowd.left_reading[name],
            "left_waiting": crowd.left_waiting[name],
            "finished": counted["met"] + counted["missed"],
            "aborted": counted["aborted"],
        }
    return found


def unaccounted(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return what does not add up, a line per class and rule.

    Whoever was read to the end finished, and nobody else did but some of those that left. Whoever
    left after the first token finished or was aborted; whoever left before it may never have begun.
    """
    problems: list[str] = []
    for name, count in found.items():
        left = count["left_reading"] + count["left_waiting"]
        ended = count["finished"] + count["aborted"]
        least = count["complete"] + count["left_reading"]
        if not count["complete"] <= count["finished"] <= count["complete"] + left:
            problems.append(
                f"class {name}: {count['finished']} finished in the engine, "
                f"clients read {count['complete']} to the end and left {left}"
            )
        if not least <= ended <= least + count["left_waiting"]:
            problems.append(
                f"class {name}: {ended} ended in the engine, clients account for "
                f"{least} to {least + count['left_waiting']}"
            )
    return problems


def leftovers(state: Mapping[str, Any]) -> list[str]:
    """Return what an idle scheduler should not have."""
    left = {key: state[key] for key in ("num_running", "num_waiting", "kv_usage") if state[key]}
    for name, counts in state["classes"].items():
        left |= {f"{name} {key}": counts[key] for key in LIVE if counts[key]}
    return [f"left in the engine when all clients had gone: {left}"] if left else []


def broken_state(state: Mapping[str, Any]) -> list[str]:
    """Return what no state under load can be."""
    problems = [] if 0 <= state["kv_usage"] <= 1 else [f"kv_usage: {state['kv_usage']}"]
    for name, counts in state["classes"].items():
        problems += [f"{name} {key}: {counts[key]}" for key in LIVE if counts[key] < 0]
    return problems


def describe(result: Mapping[str, Any]) -> str:
    """Return a result as text for people."""
    clients = ", ".join(f"{count:,} {end.replace('_', ' ')}" for end, count in result["clients"].items())
    lines = [
        f"{result['minutes']:g} min at {result['qps']:.1f} clients/s, thrice that in bursts "
        f"(backlog served at {result['saturation_qps']:.1f}/s); vLLM {result['vllm']}, seed {result['seed']}",
        f"clients: {clients}; at most {result['most_open']} at once",
        f"engine: {result['steps']:,} steps, {result['output_tokens']:,} tokens read, "
        f"{result['preempted']:,} preemptions, {_count(result['relegated'])} relegations, "
        f"{result['fallback_steps']} fall-back steps, {result['laws_broken']} laws broken",
        "",
    ]
    lines += _table("SEQUENCES", _COUNTS, result["classes"].items(), ",")
    lines.append("")
    lines += _table("MEMORY, MiB", _MEMORY, ((m["role"], m) for m in result["memory"]), ".1f")
    return "\n".join([*lines, "", verdict(result["problems"])])


def _count(number: int | None) -> str:
    """Return a number for people; a question mark for what a lost server could not tell."""
    return "?" if number is None else f"{number:,}"


_COUNTS = ("complete", "left_reading", "left_waiting", "finished", "aborted")
_MEMORY = ("first_mib", "settled_mib", "last_mib", "peak_mib", "growth_mib", "slope_mib_per_h")


def _table(
    title: str, keys: Sequence[str], rows: Iterable[tuple[str, Mapping[str, Any]]], form: str
) -> list[str]:
    heads = [key.removesuffix("_mib").replace("_mib_", " ").replace("_", " ") for key in keys]
    lines = [f"{title:<18}" + "".join(f"{head:>14}" for head in heads)]
    for name, figures in rows:
        lines.append(f"{name:<18}" + "".join(f"{format(figures[key], form):>14}" for key in keys))
    return lines


def verdict(problems: Sequence[str]) -> str:
    """Return what is wrong, a line each, or that nothing is."""
    if not problems:
        return "Nothing is wrong."
    return "\n".join(f"WRONG: {problem}" for problem in problems)
