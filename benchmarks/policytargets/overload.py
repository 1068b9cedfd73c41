"""Parts 3, 4 and 5: beyond capacity, in waves, and long prompts just below it."""

from __future__ import annotations

from dataclasses import replace

from niyama.bench.reproduce.cases import LONG_PROMPT_TOKENS, Trace
from niyama.workload.generate import Workload
from policytargets.capacity import HOURS, Traces, niyama_qps
from policytargets.runs import Runs
from policytargets.trials import Trial, under
from policytargets.verdict import Part, Table, Target, at_most

TRACES = ("azure-code", "sharegpt")
BOOKS = ("tight", "paper")
FACTORS = (1.2, 1.5, 2.0)
LOAD_HOURS = 2.0

WORTH_HALVING = 0.04
"""Above this late share of the published policy niyama's is to be at most half of it."""

OVER_BEST = 1.10
IN_TIME = 0.95

WAVE_LOW_QPS, WAVE_HIGH_QPS, WAVE_HALF_PERIOD_S, WAVE_HOURS = 2.0, 5.0, 900.0, 4.0
WAVE_LATE = 0.06
BURST_LOW, BURST_HIGH, BURST_HALF_PERIOD_S = 0.5, 1.5, 900.0
BURST_IMPORTANT_LATE = 0.001
LOW_SHARE = 0.2

BELOW = 0.9


def part(runs: Runs, traces: Traces) -> Part:
    """Return late shares beyond niyama's capacity, beside the best static alpha for that very load."""
    targets: list[Target] = []
    rows: list[list[str]] = []
    for book in BOOKS:
        for name in TRACES:
            trial = Trial(trace=traces[name], policy="niyama", book=book)
            capacity_qps = niyama_qps(runs, book, traces[name])
            for factor in FACTORS:
                place = [traces[name].title, book, f"{factor:g}x"]
                found, shown = _overloaded(runs, trial, factor, factor * capacity_qps, ", ".join(place))
                targets += found
                rows.append([*place, *shown])
    headers = ["trace", "book", "of capacity", "requests/s", "of the bound", "least possible"]
    headers += ["the largest beyond capacity", "paper, 8 ms", "best static alpha", "at, ms", "niyama"]
    headers += ["niyama over the best"]
    title = f"Late share in overload, {runs.hours(LOAD_HOURS):g} h of arrivals"
    return Part(title, targets, [Table(title, headers, rows)])


def _overloaded(
    runs: Runs, trial: Trial, factor: float, qps: float, place: str
) -> tuple[list[Target], list[str]]:
    niyama = runs.load(trial, qps, LOAD_HOURS).late["all"]
    paper = runs.load(under(trial, "paper"), qps, LOAD_HOURS).late["all"]
    best, best_ms = runs.least_late(trial, qps, LOAD_HOURS)
    targets = [
        at_most(f"{place}: within 10 % of the best static alpha ({best_ms:g} ms)", niyama, OVER_BEST * best)
    ]
    if paper > WORTH_HALVING:
        targets.append(at_most(f"{place}: half of paper's", niyama, paper / 2))
    if factor == 1.5 and trial.trace.name == "azure-code":
        targets.append(at_most(f"{place}: more than 95 % in time", niyama, 1 - IN_TIME))
    over = f"{niyama / best:.2f}x" if best > 0 else ""
    least = runs.least_possible(trial, qps, LOAD_HOURS)
    shown = [f"{qps:.2f}", f"{qps / trial.bound_qps():.0%}", f"{least:.2%}"]
    shown += [f"{largest_beyond(trial.workload(), factor):.2%}", f"{paper:.2%}"]
    return targets, [*shown, f"{best:.2%}", f"{best_ms:g}", f"{niyama:.2%}", over]


def largest_beyond(workload: Workload, factor: float) -> float:
    """Return the share of the requests, largest first, that hold the tokens beyond capacity.

    Whoever computes as many tokens per second as at capacity, and sheds them in the fewest requests, has
    that share late. Less takes more tokens per second than capacity: with fewer readers, for one.

    Args:
        workload: Its lengths count.
        factor: Load over capacity, above 1.
    """
    sizes = sorted(
        ((row.num_prefill_tokens + row.num_decode_tokens, w) for row, w in workload.lengths.weighted()),
        reverse=True,
    )
    left = (1 - 1 / factor) * sum(tokens * weight for tokens, weight in sizes)
    shed = 0.0
    for tokens, weight in sizes:
        if tokens * weight >= left:
            shed += left / tokens
            break
        left -= tokens * weight
        shed += weight
    return shed / sum(weight for _, weight in sizes)


def waves(runs: Runs, traces: Traces) -> Part:
    """Return who is late in the paper's square wave and in bursts, by importance."""
    code = Trial(trace=traces["azure-code"], policy="niyama", low_share=LOW_SHARE)
    wave = f"square:{WAVE_LOW_QPS:g}:{WAVE_HIGH_QPS:g}:{WAVE_HALF_PERIOD_S:g}"
    mean_qps = (WAVE_LOW_QPS + WAVE_HIGH_QPS) / 2
    shown, important, late = _wave(runs, replace(code, arrivals=wave), mean_qps, WAVE_HOURS)
    place = f"Azure Code, {WAVE_LOW_QPS:g} and {WAVE_HIGH_QPS:g} requests/s by turns"
    targets = [at_most(f"{place}: important", important, 0.0), at_most(f"{place}: all", late, WAVE_LATE)]
    rows = [[place, *one] for one in shown]
    for book in BOOKS:
        for name in TRACES:
            qps = niyama_qps(runs, book, traces[name])
            burst = f"square:{BURST_LOW * qps:.4f}:{BURST_HIGH * qps:.4f}:{BURST_HALF_PERIOD_S:g}"
            trial = replace(code, trace=traces[name], book=book, arrivals=burst)
            shown, important, _ = _wave(runs, trial, (BURST_LOW + BURST_HIGH) / 2 * qps, LOAD_HOURS)
            place = f"{traces[name].title}, {book} book, bursts of 15 min at {BURST_HIGH:g}x capacity"
            targets.append(at_most(f"{place}: important", important, BURST_IMPORTANT_LATE))
            rows += [[place, *one] for one in shown]
    title = "Late share with 20 % of low importance"
    return Part(title, targets, [Table(title, ["load", "policy", "important", "low", "all"], rows)])


def _wave(runs: Runs, trial: Trial, qps: float, hours: float) -> tuple[list[list[str]], float, float]:
    """Return rows of both policies, and niyama's late shares, of the important and of all."""
    rows, important, late = [], 0.0, 0.0
    for policy in ("paper", "niyama"):
        found = runs.load(under(trial, policy), qps, hours)
        important, late = found.late_by_importance.get("normal", 0.0), found.late["all"]
        low = found.late_by_importance.get("low", 0.0)
        rows.append([policy, f"{important:.3%}", f"{low:.2%}", f"{late:.2%}"])
    return rows, important, late


def long_prompts(runs: Runs, traces: Traces) -> Part:
    """Return whether long prompts are late more often than short ones at nine tenths of capacity."""
    targets: list[Target] = []
    rows: list[list[str]] = []
    for book in BOOKS:
        for trace in _with_long_prompts(traces):
            trial = Trial(trace=trace, policy="niyama", book=book)
            qps = BELOW * niyama_qps(runs, book, trace)
            for policy in ("paper", "niyama"):
                found = runs.load(under(trial, policy), qps, HOURS[book])
                short, long = found.late_by_length["short"], found.late_by_length["long"]
                rows.append([trace.title, book, policy, f"{qps:.2f}", f"{short:.3%}", f"{long:.3%}"])
            place = f"{trace.title}, {book} book, {BELOW:g}x capacity"
            targets.append(at_most(f"{place}: long prompts, no more than short ones", long, short))
    title = f"Late share of prompts over {LONG_PROMPT_TOKENS} tokens at {BELOW:g}x niyama's capacity"
    return Part(
        title, targets, [Table(title, ["trace", "book", "policy", "requests/s", "short", "long"], rows)]
    )


def _with_long_prompts(traces: Traces) -> list[Trace]:
    """Return those of the two traces that have prompts so long."""
    some = [traces[name] for name in TRACES]
    lengths = [Trial(trace=trace, policy="niyama").workload().lengths for trace in some]
    return [
        trace
        for trace, rows in zip(some, lengths, strict=True)
        if any(row.num_prefill_tokens > LONG_PROMPT_TOKENS for row in rows)
    ]
