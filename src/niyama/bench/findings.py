"""What a comparison found: its rows, their means over the repeats, and what it was run for."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from niyama.bench.contestants import STOCK
from niyama.bench.knee import MAX_LATE

Row = Mapping[str, Any]

AGREED_LATE_OF_STOCK, AGREED_LATE_OF_FCFS = 0.5, 0.2
AGREED_THROUGHPUT = 0.98
AGREED_KNEE = {"vllm-fcfs": 1.3, "best stock": 1.0}
AGREED_EMULATED_KNEE = {"vllm-fcfs": 1.5, "best stock": 1.1}
AGREED_TIGHT_KNEE = {"vllm-fcfs": 1.5, "best stock": 1.2}

OURS = "niyama"


def group(rows: Iterable[Row]) -> dict[tuple[str, float, str], list[Row]]:
    """Return the repeats of each scenario, load and policy, in the order of the rows."""
    found: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["scenario"], row["load"], row["policy"]), []).append(row)
    return found


def mean_of(rows: Sequence[Row], value: Callable[[Row], float | None]) -> float | None:
    """Return the mean over the repeats that have the value."""
    values = [v for row in rows if (v := value(row)) is not None]
    return statistics.fmean(values) if values else None


def spread_of(rows: Sequence[Row], value: Callable[[Row], float | None]) -> tuple[float, float] | None:
    """Return the smallest and the largest over the repeats, or None with fewer than two."""
    values = [v for row in rows if (v := value(row)) is not None]
    return (min(values), max(values)) if len(values) > 1 else None


def late_all(row: Row) -> float | None:
    """Return the share of late requests, all classes together."""
    share: float | None = row["late_share"].get("all")
    return share


def worst_class(row: Row) -> float | None:
    """Return the largest late share of a class."""
    shares = [share for name, share in row["late_share"].items() if name != "all"]
    return max(shares, default=None)


def findings(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was aimed for and what came out: `what`, `value`, `bound`, `at_most`, `is_met`, `valid`.

    Only what the runs can say is in it; the bounds are those of the project (docs/compare.md). One that
    is not `valid` says nothing, met or not: a run or a knee that it comes from does not count.
    """
    aims = _Aims(result)
    for (scenario, load, policy), of_ours in aims.rows.items():
        if policy == OURS and scenario in ("steady", "low", "alone"):
            aims.add_scenario(scenario, load, of_ours)
    aims.add_knees()
    return aims.found


def verdict(finding: Mapping[str, Any]) -> str:
    """Return what a finding comes to, in words."""
    if not finding["valid"]:
        return "does not count"
    return "met" if finding["is_met"] else "MISSED"


class _Aims:
    """Holds a result against what is aimed for."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.found: list[dict[str, Any]] = []
        self.rows = group(result["runs"])
        self._result = result
        # All loads are shares of it.
        self._load_1: Row = {"valid": result.get("saturation_valid", True)}

    def _add(
        self, what: str, value: float | None, bound: float, of: Iterable[Row], *, at_most: bool = True
    ) -> None:
        """Add a value, if there is one, that comes from these runs or knees."""
        if value is None:
            return
        is_met = value <= bound + 1e-9 if at_most else value >= bound - 1e-9
        valid = not self._result["shortened"] and all(one.get("valid", True) for one in of)
        one = {"what": what, "value": value, "bound": bound, "at_most": at_most}
        self.found.append({**one, "is_met": is_met, "valid": valid})

    def add_scenario(self, scenario: str, load: float, of_ours: Sequence[Row]) -> None:
        """Add what our runs of a scenario at a load are held against."""
        where, ours = f"{scenario} at {load:g}", [*of_ours, self._load_1]
        if scenario == "alone":
            self._add_throughput(of_ours)
        elif scenario == "low":
            important = mean_of(of_ours, lambda row: row["late_share_important"])
            self._add(f"{where}: important requests late", important, MAX_LATE, ours)
        elif load < 1:
            self._add(f"{where}: the latest class", mean_of(of_ours, worst_class), MAX_LATE, ours)
        elif load > 1:
            late = mean_of(of_ours, late_all)
            best, fcfs = _best_stock_late(self.rows, load), _late(self.rows, load, "vllm-fcfs")
            of_stock, of_fcfs = (self._of("steady", load, names) for names in (STOCK, ("vllm-fcfs",)))
            what = f"{where}: late, of the best stock's"
            self._add(what, _share(late, best), AGREED_LATE_OF_STOCK, [*ours, *of_stock])
            what = f"{where}: late, of vllm-fcfs's"
            self._add(what, _share(late, fcfs), AGREED_LATE_OF_FCFS, [*ours, *of_fcfs])

    def _add_throughput(self, of_ours: Sequence[Row]) -> None:
        of_stock = self._of("alone", 0.0, STOCK)
        share = _of_stock_throughput(of_ours, of_stock)
        what = "alone: throughput, of stock's in the same turn, median"
        self._add(what, share, AGREED_THROUGHPUT, [*of_ours, *of_stock], at_most=False)

    def add_knees(self) -> None:
        """Add our knee against those of others; of which load 1 is, does not matter to their ratio."""
        knees = self._result["knees"]
        bounds = _knee_bounds(self._result)
        for rival, ratio in knee_ratios(knees).items():
            rivals = STOCK if rival == "best stock" else (rival,)
            of = [knees[name] for name in (OURS, *rivals) if name in knees]
            self._add(f"knee, of {rival}'s", ratio, bounds[rival], of, at_most=False)

    def _of(self, scenario: str, load: float, policies: Iterable[str]) -> list[Row]:
        return [row for name in policies for row in self.rows.get((scenario, load, name), [])]


def _knee_bounds(result: Mapping[str, Any]) -> Mapping[str, float]:
    if result["engine"]["kind"] == "real":
        return AGREED_KNEE
    return AGREED_TIGHT_KNEE if result["book"] == "tight" else AGREED_EMULATED_KNEE


def knee_ratios(knees: Mapping[str, Row]) -> dict[str, float]:
    """Return our knee over that of FCFS and of the best stock configuration, where both are known."""
    ours = knees.get(OURS, {}).get("load")
    stock = {name: knees[name]["load"] for name in STOCK if name in knees}
    rivals = {"vllm-fcfs": stock.get("vllm-fcfs"), "best stock": max(stock.values(), default=None)}
    return {name: ours / load for name, load in rivals.items() if ours is not None and load}


def _late(rows: Mapping[tuple[str, float, str], list[Row]], load: float, policy: str) -> float | None:
    return mean_of(rows.get(("steady", load, policy), []), late_all)


def _best_stock_late(rows: Mapping[tuple[str, float, str], list[Row]], load: float) -> float | None:
    return min((late for name in STOCK if (late := _late(rows, load, name)) is not None), default=None)


def _share(part: float | None, whole: float | None) -> float | None:
    if part is None or whole is None:
        return None
    return part / whole if whole else (0.0 if part == 0 else float("inf"))


def _of_stock_throughput(of_ours: Iterable[Row], of_stock: Sequence[Row]) -> float | None:
    """Return the median over the turns of our share of the most that a stock server did in that turn."""
    shares: list[float] = []
    for ours in of_ours:
        stock = [row["throughput_tps"] for row in of_stock if row["repeat"] == ours["repeat"]]
        if any(stock):
            shares.append(ours["throughput_tps"] / max(stock))
    return statistics.median(shares) if shares else None


def table(result: Mapping[str, Any]) -> str:
    """Return the rows as a Markdown table, the repeats of each put together."""
    occur = {name for row in result["runs"] for name in row["late_share"]}
    names = [name for name in result["classes"] if name in occur]
    heads = ["scenario", "load", "policy", "late, all", *names, "important", "in time, req/s", "tokens/s"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (scenario, load, policy), rows in group(result["runs"]).items():
        chunk = rows[0]["chunk"]
        cells = [scenario, f"{load:g}" if load else "", policy + (f" ({chunk})" if chunk else "")]
        cells.append(_cell(rows, late_all, ".1%"))
        for name in names:
            mean = mean_of(rows, partial(_late_of, name))
            cells.append("" if mean is None else f"{mean:.1%}")
        cells.append(_cell(rows, lambda row: row["late_share_important"], ".1%"))
        cells.append(_cell(rows, lambda row: row["goodput_rps"], ".2f"))
        cells.append(_cell(rows, lambda row: row["throughput_tps"], ".0f"))
        if not all(row["valid"] for row in rows):
            cells[2] += " INVALID"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def knee_table(result: Mapping[str, Any]) -> str:
    """Return the knees as a Markdown table; empty without any."""
    if not result["knees"]:
        return ""
    lines = ["| policy | knee, load | requests/s |", "|---|---|---|"]
    for policy, knee in result["knees"].items():
        chunk = f" ({knee['chunk']})" if knee["chunk"] else ""
        chunk += "" if knee.get("valid", True) else " INVALID"
        lines.append(f"| {policy}{chunk} | {knee['load']:g} | {knee['qps']:.2f} |")
    return "\n".join(lines) + "\n"


def _late_of(name: str, row: Row) -> float | None:
    share: float | None = row["late_share"].get(name)
    return share


def _cell(rows: Sequence[Row], value: Callable[[Row], float | None], form: str) -> str:
    """Return the mean over the repeats, and from where to where they go."""
    mean, spread = mean_of(rows, value), spread_of(rows, value)
    if mean is None:
        return ""
    return format(mean, form) + ("" if spread is None else f" ({spread[0]:{form}} to {spread[1]:{form}})")
