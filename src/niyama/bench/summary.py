"""A result as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from niyama.sim.verdicts import CRITERIA
from niyama.workload.runlength import length_notes

Result = Mapping[str, Any]


def describe(result: Result) -> str:
    """Return a result as text: what was run, who was late, and whether it counts."""
    invalid = [f"INVALID: {reason}" for reason in result["invalid_because"]]
    return "\n".join([*_head(result), *invalid, "", *_table(result), "", *_tail(result)])


def _head(result: Result) -> list[str]:
    target, workload = result["target"], result["workload"]
    who = [target["model"], target["endpoint"]]
    who += [f"vLLM {target['vllm_version']}"] if target["vllm_version"] else []
    who += [f"policy {target['policy']}"] if target["policy"] else []
    who += [target["emulated"]] if target.get("emulated") else []
    load = (
        ""
        if workload["load"] is None
        else f" (load {workload['load']:g} of {workload['saturation_qps']:.2f}/s)"
    )
    lines = [
        f"{workload['trace']} at {workload['qps']:.2f} requests/s{load}: {result['requests']:,} requests in "
        f"{result['wall_s']:.1f} s to {target['url']} ({', '.join(who)})",
        f"goodput {result['goodput_rps']:.2f}/s by criterion {result['criterion']}, "
        f"{result['throughput_tps']:,.0f} output tokens/s, {result['prompt_tps']:,.0f} prompt tokens/s, "
        f"relegated {share(result['relegated_share'])}, errors {result['errors']['count']:,}",
    ]
    return lines


def _table(result: Result) -> list[str]:
    lines = [
        f"{'LATE, by criterion':<20}"
        + "".join(f"{name:>9}" for name in CRITERIA)
        + f"{'TTFT p50':>11}{'p90':>9}{'p99':>9}{'TBT p99':>10}{'TTLT p50':>11}{'p90':>9}{'p99':>9}"
    ]
    for name in result["late_share"]:
        line = f"{name:<20}" + "".join(
            f"{result['late_share_by_criterion'][criterion][name]:>9.2%}" for criterion in CRITERIA
        )
        ttft, tbt, ttlt = (result[metric].get(name, {}) for metric in ("ttft_s", "tbt_s", "ttlt_s"))
        line += f"{seconds(ttft.get('p50')):>11}{seconds(ttft.get('p90')):>9}{seconds(ttft.get('p99')):>9}"
        line += f"{milliseconds(tbt.get('p99')):>10}"
        line += f"{seconds(ttlt.get('p50')):>11}{seconds(ttlt.get('p90')):>9}{seconds(ttlt.get('p99')):>9}"
        lines.append(line)
    return lines


def _tail(result: Result) -> list[str]:
    client = result["client"]
    lines = [f"note: {note}" for note in notes(result)]
    cost = client["cpu_us_per_token"]
    lines.append(
        f"client: sent {milliseconds(client['send_lag_s']['p99'])} late (p99), event loop "
        f"{milliseconds(client['loop_lag_s']['p99'])} (p99), bound {milliseconds(client['max_lag_s'])}; "
        + ("" if cost is None else f"{cost:.0f} us of CPU per token, ")
        + f"{client['cpu_share']:.0%} of a core"
    )
    return lines


def notes(result: Result) -> list[str]:
    """Return what a reader has to know to read the figures right."""
    workload, lengths, target = result["workload"], result["lengths"], result["target"]
    said: list[str] = []
    if workload["scale_lengths"] != 1:
        said.append(f"lengths of the trace times {workload['scale_lengths']:g}")
    if workload["cut_share"]:
        said.append(f"{workload['cut_share']:.1%} of the requests had their lengths cut to fit the limits")
    if target["token_times"] != "every token":
        said.append("the server counts no tokens in its stream: every event with text is taken for one token")
    if lengths["prompt_off_share"]:
        said.append(f"{lengths['prompt_off_share']:.1%} of the prompts were not as long as asked")
    if lengths["output_off_share"]:
        said.append(f"{lengths['output_off_share']:.1%} of the answers were not as long as asked")
    if result["served_class_off_share"]:
        off = result["served_class_off_share"]
        said.append(f"{off:.1%} of the answers were served in another class than asked (x-niyama-class)")
    if result["left"]:
        said.append(f"{result['left']:,} requests hung up on purpose and are not scored")
    said += [f"{count:,} x {cause}" for cause, count in result["errors"]["causes"].items()]
    arrivals_s = workload["arrivals_s"]
    said += length_notes(
        arrivals_s,
        workload.get("longest_slo_s"),
        workload.get("asked_s", arrivals_s),
        workload.get("period_s"),
    )
    return said


def share(value: float | None) -> str:
    """Return a share as per cent; a dash for None."""
    return "-" if value is None else f"{value:.2%}"


def seconds(value_s: float | None) -> str:
    """Return a time in seconds; a dash for None."""
    if value_s is None:
        return "-"
    return f"{value_s:.2f} s" if value_s < 100 else f"{value_s:.0f} s"


def milliseconds(value_s: float | None) -> str:
    """Return a time in milliseconds; a dash for None."""
    if value_s is None:
        return "-"
    return f"{1000 * value_s:.0f} ms" if value_s >= 0.01 else f"{1000 * value_s:.1f} ms"
