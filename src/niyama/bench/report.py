"""The report of a run: one HTML page that stands alone, pictures inside."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from niyama.bench.plots import OTHER_COLOURS, data_uri, figure
from niyama.bench.records import Header, Record
from niyama.bench.score import judge
from niyama.bench.summary import milliseconds, notes, seconds, share
from niyama.qosfile import book_to_mapping
from niyama.sim.verdicts import CRITERIA, Criterion

NUM_BINS = 40
"""Pieces of the run over which shares and rates are taken in the pictures over time."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left }
td + td, th + th { text-align: right }
.what td + td { text-align: left; font-family: monospace }
img { max-width: 100%; display: block; margin: 1rem 0 }
.bad { color: #a4161a; font-weight: 600 }
"""


def report_html(header: Header, records: Sequence[Record], result: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        header: What was run.
        records: Every request.
        result: The figures, as `niyama bench --json` writes them.

    Raises:
        ImportError: matplotlib is not installed.
    """
    started = datetime.fromtimestamp(header.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    verdict = "".join(
        f'<p class="bad">INVALID: {html.escape(reason)}</p>' for reason in result["invalid_because"]
    )
    remarks = "".join(f"<li>{html.escape(note)}</li>" for note in notes(result))
    pictures = "".join(
        f"<h2>{title}</h2><img alt={html.escape(title)!r} src={uri!r}>"
        for title, uri in (
            ("Latency", _latency_cdf(records)),
            ("In time, over the run", _attainment(header, records, result["criterion"])),
            ("Load, over the run", _load(records)),
        )
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>niyama bench {html.escape(header.run_id)}</title><style>{_STYLE}</style>"
        f"<h1>niyama bench</h1><p>{started}, {html.escape(str(header.target['url']))}</p>{verdict}"
        f"{_figures(result)}{_table(result)}<ul>{remarks}</ul>{pictures}"
        f"<h2>What was run</h2>{_what(header)}</html>\n"
    )


def _figures(result: Mapping[str, Any]) -> str:
    parts = [
        f"goodput {result['goodput_rps']:.2f} requests/s in time",
        f"{result['throughput_tps']:,.0f} output tokens/s",
        f"{result['prompt_tps']:,.0f} prompt tokens/s",
        f"relegated {share(result['relegated_share'])}",
        f"errors {result['errors']['count']:,} of {result['requests']:,}",
        f"prefix cache hits {share(result['prefix_cache_hit_share'])}",
    ]
    lag, bound = result["client"]["send_lag_s"]["p99"], result["client"]["max_lag_s"]
    parts.append(f"requests sent {milliseconds(lag)} late (p99), bound {milliseconds(bound)}")
    return f"<p>{' · '.join(parts)}</p>"


def _table(result: Mapping[str, Any]) -> str:
    heads = ["class", *(f"in time, {name}" for name in CRITERIA)]
    heads += [f"{metric} {p}" for metric in ("TTFT", "TTLT") for p in ("p50", "p90", "p95", "p99")]
    heads += ["TBT p50", "TBT p99"]
    rows = ["".join(f"<th>{head}</th>" for head in heads)]
    for name in result["late_share"]:
        cells = [html.escape(name)]
        cells += [share(1 - result["late_share_by_criterion"][criterion][name]) for criterion in CRITERIA]
        for metric in ("ttft_s", "ttlt_s"):
            found = result[metric].get(name, {})
            cells += [seconds(found.get(p)) for p in ("p50", "p90", "p95", "p99")]
        tbt = result["tbt_s"].get(name, {})
        cells += [milliseconds(tbt.get(p)) for p in ("p50", "p99")]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _what(header: Header) -> str:
    facts: dict[str, Any] = {
        **{f"target {name}": value for name, value in header.target.items()},
        **{f"version {name}": value for name, value in header.versions.items()},
        **dict(header.workload),
        "seed": header.seed,
        "run": header.run_id,
        **{f"class {name}": value for name, value in _classes(header).items()},
    }
    rows = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{html.escape(_worded(value))}</td></tr>"
        for name, value in facts.items()
        if value is not None
    )
    return f"<table class=what>{rows}</table>"


def _classes(header: Header) -> dict[str, Any]:
    found = book_to_mapping(header.book)["classes"]
    return found if isinstance(found, dict) else {}


def _worded(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_worded(part)}" for name, part in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _by_class(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record.qos_class].append(record)
    return dict(sorted(found.items()))


def _colour(number: int) -> str:
    return OTHER_COLOURS[number % len(OTHER_COLOURS)]


def _latency_cdf(records: Sequence[Record]) -> str:
    """Draw the share of requests that had at most so much TTFT, gap between tokens, and TTLT."""
    whole = [record for record in records if record.is_whole]
    with figure(ncols=3, figsize=(12.0, 4.0)) as (canvas, axes):
        for number, (name, of_class) in enumerate(_by_class(whole).items()):
            ttft = [r.token_at[0] - r.due_at for r in of_class]
            gaps = np.concatenate([np.diff(np.array(r.token_at)) for r in of_class])
            ttlt = [r.token_at[-1] - r.due_at for r in of_class]
            for place, values in zip(axes, (ttft, 1000 * gaps, ttlt), strict=True):
                ordered = np.sort(np.array(values))
                if len(ordered):
                    shares = np.arange(1, len(ordered) + 1) / len(ordered)
                    # A step at each value; a few hundred points draw the same curve as a million.
                    kept = np.unique(np.linspace(0, len(ordered) - 1, 400).astype(int))
                    place.plot(ordered[kept], shares[kept], color=_colour(number), label=name)
        for place, label in zip(axes, ("TTFT (s)", "time between tokens (ms)", "TTLT (s)"), strict=True):
            place.set(xlabel=label, ylim=(0, 1.02), xlim=(0, None))
        axes[0].set_ylabel("share of requests")
        axes[1].set_ylabel("share of gaps")
        if whole:
            axes[0].legend()
        return data_uri(canvas)


def _bins(last_at: float) -> tuple[float, int]:
    """Return the width of a bin, seconds, and how many there are."""
    width_s = max(last_at / NUM_BINS, 1e-3)
    return width_s, math.ceil(last_at / width_s + 1e-9) + 1


def _attainment(header: Header, records: Sequence[Record], criterion: Criterion) -> str:
    """Draw the share in time of the requests that arrived in each piece of the run."""
    judged = judge(records, header.book)
    width_s, num_bins = _bins(max((one.record.due_at for one in judged), default=0.0))
    with figure(figsize=(12.0, 4.0)) as (canvas, axes):
        for number, name in enumerate(_by_class([one.record for one in judged])):
            count, met = np.zeros(num_bins), np.zeros(num_bins)
            for one in judged:
                if one.record.qos_class == name:
                    place = int(one.record.due_at / width_s)
                    count[place] += 1
                    met[place] += not one.is_late(criterion)
            some = count > 0
            at = (np.arange(num_bins) + 0.5) * width_s
            axes.plot(at[some], met[some] / count[some], "o-", ms=3, color=_colour(number), label=name)
        axes.set(xlabel="planned instant (s)", ylabel=f"share in time ({criterion})", ylim=(-0.02, 1.02))
        if judged:
            axes.legend(loc="lower left")
        return data_uri(canvas)


def _load(records: Sequence[Record]) -> str:
    """Draw requests per second, requests in flight and output tokens per second."""
    ends = [r.finished_at for r in records if r.finished_at is not None]
    width_s, num_bins = _bins(max([*ends, *(r.due_at for r in records)], default=0.0))
    due, tokens, flight = np.zeros(num_bins), np.zeros(num_bins), np.zeros(num_bins)
    at = (np.arange(num_bins) + 0.5) * width_s
    for record in records:
        due[int(record.due_at / width_s)] += 1 / width_s
        if record.sent_at is not None and record.finished_at is not None:
            flight += (at >= record.sent_at) & (at < record.finished_at)
        if record.token_at:
            places = np.minimum((np.array(record.token_at) / width_s).astype(int), num_bins - 1)
            tokens += np.bincount(places, minlength=num_bins) / width_s
    with figure(ncols=3, figsize=(12.0, 3.5)) as (canvas, axes):
        drawn = (
            (due, "requests per second due"),
            (flight, "requests in flight"),
            (tokens, "output tokens per second"),
        )
        for number, (place, (values, label)) in enumerate(zip(axes, drawn, strict=True)):
            place.plot(at, values, color=_colour(number))
            place.set(xlabel="s", ylabel=label, ylim=(0, None))
        return data_uri(canvas)
