"""The report of a comparison: one HTML page that stands alone, pictures inside."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from niyama.bench.comparepicture import INVALID_COLOUR, bar_look, do_count, draw_knees, say_invalid
from niyama.bench.findings import findings, group, late_all, mean_of, spread_of, verdict
from niyama.bench.plots import colour, data_uri, figure
from niyama.bench.scenarios import WORDS
from niyama.compiled import INTERPRETED

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child, .text td { text-align: left }
img { max-width: 100%; display: block; margin: 1rem 0 }
.bad { color: #a4161a; font-weight: 600 }
"""


def report_html(result: Mapping[str, Any]) -> str:
    """Return the page of a comparison, from what `niyama compare --json` writes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    pictures = [("Late requests by load", _curves(result)), *_bars(result)]
    if result["knees"]:
        pictures.append(("Knee: the highest load with every class at most 1 % late", _knees(result)))
    drawn = "".join(
        f"<h2>{html.escape(title)}</h2><img alt={html.escape(title)!r} src={uri!r}>"
        for title, uri in pictures
        if uri
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>niyama compare</title><style>{_STYLE}</style><h1>niyama compare</h1>"
        f"<p><b>Engine:</b> {html.escape(result['engine']['description'])}</p>"
        f"{_warnings(result)}{_targets(result)}{drawn}<h2>Every run</h2>{_rows(result)}"
        f"<h2>What was run</h2>{_what(result)}</html>\n"
    )


def _warnings(result: Mapping[str, Any]) -> str:
    said = []
    if result["shortened"]:
        said.append(
            f"SHORTENED: runs of {result['seconds']:g} s; lateness had no time to build up: these figures "
            "do not count"
        )
    invalid = [row for row in [*result["runs"], *result["tuning"], *result["knee_runs"]] if not row["valid"]]
    if not result.get("saturation_valid", True):
        why = result["saturation_invalid_because"][0]
        said.append(f"INVALID: load 1 was not measured right, and all loads are shares of it: {why}")
    if not result.get("compiled", True):
        said.append(INTERPRETED)
    if invalid:
        reasons = sorted({reason for row in invalid for reason in row["invalid_because"]})
        said.append(f"INVALID: {len(invalid)} runs do not count, for example: {reasons[0]}")
    return "".join(f'<p class="bad">{html.escape(text)}</p>' for text in said)


def _targets(result: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(one['what'])}</td><td>{one['value']:.4g}</td>"
        f"<td>{'at most' if one['at_most'] else 'at least'} {one['bound']:g}</td>"
        f"<td{'' if one['valid'] and one['is_met'] else ' class=bad'}>{verdict(one)}</td></tr>"
        for one in findings(result)
    )
    head = "<tr><th>what</th><th>found</th><th>aimed for</th><th></th></tr>"
    return f"<h2>Aims</h2><table>{head}{rows}</table>" if rows else ""


def _rows(result: Mapping[str, Any]) -> str:
    heads = "scenario,load,policy,chunk,seed,late,late TTFT,late TBT,late TTLT,important late"
    heads += ",in time req/s,tokens/s,TTFT p99 s,TBT p99 ms,valid"
    lines = ["".join(f"<th>{name}</th>" for name in heads.split(","))]
    for row in result["runs"]:
        cells = [row["scenario"], f"{row['load']:g}", row["policy"], row["chunk"] or "", row["seed"]]
        cells += [_percent(row["late_share"].get("all"))]
        cells += [_percent(row[f"{part}_late_share"]) for part in ("ttft", "tbt", "ttlt")]
        cells += [_percent(row["late_share_important"]), f"{row['goodput_rps']:.2f}"]
        cells += [f"{row['throughput_tps']:.0f}", _p99(row, "ttft_s", 1.0), _p99(row, "tbt_s", 1000.0)]
        cells += ["yes" if row["valid"] else "NO"]
        lines.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _p99(row: Mapping[str, Any], metric: str, factor: float) -> str:
    value = row.get(metric, {}).get("all", {}).get("p99")
    return "" if value is None else f"{factor * value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _what(result: Mapping[str, Any]) -> str:
    names = (
        "date",
        "machine",
        "versions",
        "trace",
        "scale_lengths",
        "criterion",
        "seed",
        "repeats",
        "seconds",
    )
    facts: dict[str, Any] = {name: result[name] for name in names}
    facts["load 1"] = (
        f"{result['saturation_qps']:.3f} requests/s, what stock vLLM sustains with the largest chunk"
    )
    if result["step_s"]:
        facts["step of the SLO rule"] = f"{1000 * result['step_s']:.2f} ms"
    facts |= {f"class {name}": slo for name, slo in result["classes"].items()}
    facts |= {f"best chunk of {name}": chunk for name, chunk in result["best_chunk"].items()}
    facts |= {f"scenario {name}": WORDS[name] for name in result["scenarios"]}
    lines = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(_worded(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="text">{lines}</table>'


def _worded(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)


def _curves(result: Mapping[str, Any]) -> str:
    """Draw the late share against the load, of the scenario `steady` and of the search for knees."""
    rows = [r for r in [*result["runs"], *result["knee_runs"]] if r["scenario"] in ("steady", "knee")]
    # A run that ended once its verdict was clear has no late share to show.
    rows = [row for row in rows if not row.get("settled_by")]
    if not rows:
        return ""
    with figure() as (canvas, axes):
        for number, policy in enumerate(result["policies"]):
            by_load: dict[float, list[Mapping[str, Any]]] = {}
            for row in rows:
                if row["policy"] == policy and row["chunk"] in (None, _chunk_of(result, policy)):
                    by_load.setdefault(row["load"], []).append(row)
            loads = sorted(by_load)
            late = [mean_of(by_load[load], late_all) for load in loads]
            axes.plot(loads, _in_percent(late), "o-", color=colour(policy, number), label=policy)
            off = [place for place, load in enumerate(loads) if not do_count(by_load[load])]
            at = _in_percent([late[place] for place in off])
            axes.plot([loads[place] for place in off], at, "x", color=INVALID_COLOUR, ms=12, mew=2.5)
        axes.axhline(1.0, color="#a4161a", lw=1, ls="--")
        axes.set(xlabel="load (1 = what stock vLLM sustains)", ylabel="late requests (%)", ylim=(0, None))
        if not do_count(rows):
            axes.plot([], [], "x", color=INVALID_COLOUR, ms=12, mew=2.5, label="INVALID: does not count")
        axes.legend()
        return data_uri(canvas)


def _chunk_of(result: Mapping[str, Any], policy: str) -> int | None:
    knee = result["knees"].get(policy)
    found: int | None = knee["chunk"] if knee else result["best_chunk"].get(policy)
    return found


def _in_percent(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else 100 * value for value in values]


def _bars(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a picture per scenario and load: late requests per class; throughput where none is late."""
    pictures: list[tuple[str, str]] = []
    grouped = group(result["runs"])
    for scenario, load in dict.fromkeys((scenario, load) for scenario, load, _ in grouped):
        of_this = {p: rows for (s, at, p), rows in grouped.items() if (s, at) == (scenario, load)}
        title = f"{scenario}" + (f" at load {load:g}" if load else "") + f": {WORDS.get(scenario, '')}"
        if scenario == "alone":
            pictures.append((title, _throughput(of_this)))
        elif scenario == "backlog":
            continue
        else:
            pictures.append((title, _late_bars(of_this, list(result["classes"]))))
    backlog = {p: rows for (s, _, p), rows in grouped.items() if s == "backlog"}
    if backlog:
        title = f"backlog: {WORDS['backlog']}"
        pictures.append((title, _late_bars(backlog, list(result["classes"]))))
        pictures.append((f"{title}: tokens/s", _throughput(backlog)))
    return pictures


def _late_bars(of_policy: Mapping[str, Sequence[Mapping[str, Any]]], classes: Sequence[str]) -> str:
    occur = dict.fromkeys(name for rows in of_policy.values() for name in rows[0]["late_share"])
    names = [name for name in ("all", *classes) if name in occur]
    with figure() as (canvas, axes):
        width = 0.8 / max(1, len(of_policy))
        for number, (policy, rows) in enumerate(of_policy.items()):
            for place, name in enumerate(names):

                def share(row: Mapping[str, Any], name: str = name) -> float | None:
                    found: float | None = row["late_share"].get(name)
                    return found

                late, spread = mean_of(rows, share), spread_of(rows, share)
                at = place + (number - (len(of_policy) - 1) / 2) * width
                label = policy if place == 0 else None
                look = bar_look(rows, policy, number)
                axes.bar(at, 100 * (late or 0.0), width, label=label, **look)
                if spread is not None:
                    axes.vlines(at, 100 * spread[0], 100 * spread[1], color="#222", lw=1)
        tilt = 0 if len(names) < 6 else 30
        axes.set_xticks(range(len(names)), names, rotation=tilt, ha="right" if tilt else "center")
        axes.axhline(1.0, color="#a4161a", lw=1, ls="--")
        axes.set(ylabel="late requests (%)", ylim=(0, None))
        say_invalid(axes, of_policy.values())
        axes.legend()
        return data_uri(canvas)


def _throughput(of_policy: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    with figure() as (canvas, axes):
        for number, (policy, rows) in enumerate(of_policy.items()):
            tps = mean_of(rows, lambda row: row["throughput_tps"])
            axes.bar(number, tps or 0.0, 0.7, **bar_look(rows, policy, number))
        say_invalid(axes, of_policy.values())
        axes.set_xticks(range(len(of_policy)), list(of_policy))
        axes.set_ylabel("output tokens per second")
        return data_uri(canvas)


def _knees(result: Mapping[str, Any]) -> str:
    with figure() as (canvas, axes):
        draw_knees(axes, result["knees"], result["policies"])
        return data_uri(canvas)
