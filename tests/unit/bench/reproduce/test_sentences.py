"""The sentences of the results say what made-up numbers say, at the edges, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from niyama.bench.reproduce import ablation, alpha, capacity, fidelity, fleet, load, overload, prefill
from niyama.bench.reproduce.cases import find_traces
from niyama.bench.reproduce.registry import choose
from niyama.bench.reproduce.scale import FULL, QUICK, note
from niyama.bench.reproduce.tasks import Capacity, Found

DOC = Path(__file__).parents[4] / "docs" / "reproduce.md"


def cell(bound_qps: float = 5.0, **qps: float) -> dict[str, Any]:
    """Capacities by bar, 1 where none is given; `fcfs_best` is FCFS at its best chunk."""
    full = {bar: qps.get(bar.replace(", best chunk", "_best"), 1.0) for bar in capacity.BARS}
    return {"model": "M", "trace": "T", "capacity_qps": full, "chunk": {}, "bound_qps": bound_qps}


def test_the_bound_is_a_reason_only_where_it_keeps_everybody_out() -> None:
    cells = [
        cell(fcfs=4.0, niyama=4.4),  # 5.0 / 4.0 is below 1.5
        cell(fcfs=2.0, niyama=2.2, bound_qps=6.0),
        cell(fcfs=2.0, niyama=4.0),
    ]
    why = capacity.findings({"cells": cells})[0].why
    assert "1 of 3 combinations lie in the paper's range, 2 below" in why
    assert "On 1 of the 2 below nobody could be inside" in why
    assert "is 1.25-1.25x FCFS." in why
    assert "On 1 of the 2 below the throughput" in why
    assert "3.00-3.00x FCFS, would allow it: there it is no reason" in why


def test_capacity_names_who_serves_more_than_niyama_and_by_how_much() -> None:
    cells = [cell(niyama=4.0, paper=6.0, edf=5.0, edf_best=5.0), cell(niyama=4.0, paper=3.0, edf=4.0)]
    paper, others = capacity.findings({"cells": cells})[2:]
    assert paper.why.endswith("in 1 of 2 combinations: M on T 6.00 against 4.00 (+50.0%).")
    assert others.ours == "EDF on 1 of 2"
    assert others.why == "EDF: M on T 5.00 against 4.00 (+25.0%)."
    best = capacity.findings({"cells": [cell(niyama=4.0, edf_best=5.0)]})[3]
    assert best.ours == "EDF at its best chunk on 1 of 1"
    assert capacity.findings({"cells": [cell(niyama=4.0)]})[3].ours == "none"


@pytest.mark.parametrize(
    ("best", "said"), [(2.5, "comes closer: 1.60-1.60x"), (2.0, "comes no closer: 2.00-2.00x")]
)
def test_the_best_chunk_comes_closer_only_if_the_ratio_fell(best: float, said: str) -> None:
    assert said in capacity.findings({"cells": [cell(fcfs=2.0, fcfs_best=best, niyama=4.0)]})[0].why


def test_a_chunk_that_serves_less_in_long_runs_gives_way_to_the_default() -> None:
    plain = {bar: Found(2.0, 5.0) for bar in capacity.BARS}
    chosen = {**plain, "fcfs, best chunk": Found(1.5, 5.0, 128), "edf, best chunk": Found(3.0, 5.0, 512)}
    kept = capacity._no_worse_than_default(chosen)
    assert kept["fcfs, best chunk"] == Found(2.0, 5.0)
    assert kept["edf, best chunk"] == Found(3.0, 5.0, 512)


@pytest.mark.parametrize(
    ("short", "long", "own_long", "said"),
    [
        (
            0.01,
            0.8,
            0.0,
            ("As in the paper, SRPF has more", "Niyama has fewer of the long late (0 % against"),
        ),
        (0.01, 0.02, 0.05, ("As in the paper", "Niyama has more of the long late (5.00 % against 2.00 %)")),
        (0.3, 0.2, 0.2, ("Unlike in the paper", "Niyama has as many of the long late")),
        (0.0, 0.0, 0.0, ("as many of the long prompts late as of the short", "Niyama has as many")),
    ],
)
def test_who_is_late_is_compared_directly(
    short: float, long: float, own_long: float, said: tuple[str, str]
) -> None:
    late = {
        "srpf": {"short": [short], "long": [long]},
        "niyama": {"all": [0.1], "short": [0.3], "long": [own_long]},
    }
    (found,) = load.findings_late({"loads": [4.0], "late": late})
    assert all(part in found.why for part in said)
    assert "long prompts pay first" not in found.why, "Niyama has more of the short late"


def test_long_prompts_pay_first_if_more_of_them_are_late() -> None:
    late = {
        "srpf": {"short": [0.0], "long": [1.0]},
        "niyama": {"all": [0.1], "short": [0.05], "long": [0.7]},
    }
    assert load.findings_late({"loads": [6.5], "late": late})[0].why.endswith(": long prompts pay first.")


def overloaded(*late: tuple[float, float]) -> str:
    """Return what is said of the runs with these late shares, of EDF and FCFS, and of Niyama."""
    runs = [
        {
            "trace": str(number),
            "over": base,
            "qps": 6.0,
            "bound_qps": 4.0,
            "late": {"fcfs": edf, "srpf": edf, "edf": edf, "paper": edf, "niyama": niyama},
        }
        for number, (edf, niyama) in enumerate(late)
        for base in overload.BASES
    ]
    return " ".join(finding.why for finding in overload.findings({"runs": runs}))


def test_the_smallest_factor_comes_with_the_late_share_of_its_own_run() -> None:
    assert "The smallest factor here is 2.0, by EDF, where Niyama has 4.00 % late." in overloaded(
        (0.08, 0.04), (0.9, 0.2)
    )
    assert "where Niyama has 20.0 % late: beyond 10 % ten times" in overloaded((0.9, 0.2), (0.9, 0.05))
    assert "0.5, by EDF, where Niyama has 20.0 % late: more than EDF." in overloaded((0.1, 0.2))


def test_overload_counts_traces_and_runs_without_late_requests() -> None:
    why = overloaded((0.9, 0.04), (0.9, 0.2), (0.9, 0.0))
    assert "Over EDF's the claim holds on 2 of 3 traces, over Niyama's own on 2 of 3." in why
    assert "On 2 of 6 runs nobody is late under Niyama. The smallest" in why
    assert overloaded((0.9, 0.0)).endswith("On 2 of 2 runs nobody is late under Niyama.")


def alphas(qps: list[float], late: list[float], own: tuple[float, float]) -> Any:
    """Return the finding for alphas of 0, 8 and 16 ms."""
    trace: dict[str, Any] = {"trace": "T", "capacity_qps": qps, "late": late}
    trace |= {"niyama_capacity_qps": own[0], "niyama_late": own[1]}
    (found,) = alpha.findings({"alphas_ms": [0.0, 8.0, 16.0], "traces": [trace]})
    return found


def test_equal_capacities_are_told_apart_by_late_requests() -> None:
    found = alphas([4.0, 4.0, 4.0], [0.3, 0.2, 0.1], (4.1, 0.12))
    assert "best capacity 4.00 at 16 ms, fewest late 10.0 % at 16 ms" in found.ours
    assert "One alpha, 16 ms, is best for both here." in found.why
    assert "has 2.00 points more late than 16 ms and serves 0.10 requests/s more than 16 ms." in found.why


def test_alphas_that_are_best_for_one_thing_each() -> None:
    found = alphas([4.0, 5.0, 4.0], [0.1, 0.2, 0.1], (4.5, 0.1))
    assert "No alpha is best for both: 8 ms for capacity, 0 ms for overload." in found.why
    assert "has no more late than 0 ms and serves 0.50 requests/s less than 8 ms." in found.why


def added(qps: tuple[float, ...], late: tuple[float, ...]) -> str:
    """Return what is said of the mechanisms with these capacities and late shares, step by step."""
    rows = [
        {"trace": "t", "step": step, "capacity_qps": one, "late": [0.0, share, 0.0]}
        for step, one, share in zip(ablation.STEPS, qps, late, strict=True)
    ]
    return ablation.findings({"rows": rows})[0].why


def test_a_mechanism_brings_most_only_if_it_brings_something() -> None:
    why = added((3.0, 3.0, 2.9, 2.9), (0.1, 0.1, 0.1, 0.2))
    assert why.startswith("No mechanism adds capacity here. No mechanism makes fewer late in overload here.")
    why = added((3.0, 3.5, 4.0, 4.0), (0.9, 0.8, 0.2, 0.1))
    assert "Capacity comes most from dynamic chunking and relegation." in why
    assert "come most from relegation." in why


def fleets(shared: int | None, silo: tuple[int | None, int], *late: float) -> list[Any]:
    """Return the findings on fleets of these sizes."""
    forced = [{"interactive": 1, "batch": 1, "late": {"all": share}} for share in late]
    needed = {"fcfs": 12, "edf": None, "paper": 9, "niyama": shared}
    silos = {"interactive": silo[0], "batch+background": silo[1]}
    return fleet.findings({"qps": 35.0, "shared": needed, "silo": silos, "forced": forced})


def test_forced_silos_that_lack_nothing() -> None:
    gpus, late = fleets(12, (6, 5), 0.0, 0.7)
    assert "-8% of capacity per GPU (arXiv version: +32 %) and 9% more GPUs" in gpus.why
    assert "that of EDF more than any number." in gpus.why
    assert late.why.startswith("The silos lack no GPU here, they need 11 of 12;")
    assert late.why.endswith("At least as many late as in the paper: 1 of 2 splits.")


def test_one_gpu_is_not_split_and_missing_sizes_are_named() -> None:
    (gpus,) = fleets(1, (1, 1))
    assert gpus.why.endswith("One GPU cannot be split into two silos.")
    (none,) = fleets(None, (None, 5))
    assert none.why == "No number of GPUs is in time for the interactive silo and the shared fleet of Niyama."


def window(name: str, qps: tuple[float, float, float], **fields: Any) -> Any:
    """Return the finding on a row of windows."""
    of_policy = dict(zip(fidelity.POLICIES, qps, strict=True))
    row = {"row": name, "capacity_qps": of_policy, "windows": fidelity.WINDOWS[name]}
    (found,) = fidelity.findings({"rows": [{**row, "capped": [], "stretched": None, **fields}]})
    return found


def test_no_reason_is_given_where_none_was_tested() -> None:
    assert window("sharegpt", (1.4, 1.9, 2.5)).why == "Outside: Paper's policy. No reason found."
    longer = {"factor": 1.2, "capacity_qps": {"fcfs": 2.0, "edf": 2.5, "paper": 3.6}, "capped": []}
    why = window("azure-code", (2.4, 3.3, 4.5), stretched=longer).why
    assert why.endswith("EDF, Paper's policy lie inside; for the others no reason found.")


def test_a_search_that_hit_its_ceiling_gives_a_lower_limit() -> None:
    longer = {"factor": 1.3, "capacity_qps": {"fcfs": 5.9, "edf": 6.9, "paper": 6.9}, "capped": ["paper"]}
    found = window("azure-conv, prefill", (8.0, 9.0, 9.0), capped=["edf", "paper"], stretched=longer)
    assert found.ours == "FCFS 8.00, EDF >= 9.00, Paper's policy >= 9.00"
    assert "The search for EDF, Paper's policy ended at its ceiling" in found.why
    assert "With longer prompts: The search for Paper's policy ended at its ceiling" in found.why
    qps = dict.fromkeys(prefill.POLICIES, 9.0)
    row = {"trace": "Azure Conversation", "capacity_qps": qps, "bound_qps": 9.0, "capped": ["niyama"]}
    assert list(prefill.table({"rows": [row]}).rows[0][-2:]) == [">= 9.00", "9.00"]
    assert "For Niyama the search ended at its ceiling" in prefill.findings({"rows": [row]})[0].why


def test_a_search_knows_whether_it_hit_its_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    from niyama.bench.reproduce.cases import Case

    def found(policy: str) -> Found:
        case = Case(trace=find_traces(None)["azure-code"], policy=policy, role="prefill")
        return Capacity(case, hours=0.01, screen_hours=0.01, resolution=4).run()

    assert found("edf").is_capped, "no backlog is late within 36 s"
    monkeypatch.setattr(Capacity, "_highest", lambda *args: 1)
    assert not found("niyama").is_capped


# Lengths of runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alpha", "ablation", "overload"])
def test_captions_name_both_lengths(name: str) -> None:
    (figure,) = choose([name])
    text = note(FULL, figure.lengths(FULL))
    assert text == "4 h of arrivals per run for capacities, 2 h for late requests"
    assert note(QUICK, figure.lengths(QUICK)).startswith("QUICK RUN, coarse: 0.5 h of arrivals per run for")
    same = QUICK._replace(load_hours=QUICK.capacity_hours)
    assert figure.lengths(same) == "0.5 h of arrivals per run"


def test_the_documented_lengths_are_those_of_the_scales() -> None:
    text = " ".join(DOC.read_text(encoding="utf-8").split())
    assert f"{FULL.capacity_hours:g} hours of arrivals decide a capacity on Llama-3-8B" in text
    assert f"{FULL.other_hours:g} on the other models ({FULL.screen_hours:g} hours find where" in text
    assert f"where to look), in steps of 1/{FULL.resolution} of the throughput" in text
    assert f"{FULL.load_hours:g} hours for a point on a curve, {FULL.fleet_hours:g} for a fleet" in text
    assert QUICK.other_hours == 0
    assert f"`--quick`: {QUICK.capacity_hours:g} hours decide a capacity ({QUICK.screen_hours:g} to" in text
    assert f"{QUICK.load_hours:g} for a point on a curve, {QUICK.fleet_hours:g} for a fleet" in text
    assert f"steps of 1/{QUICK.resolution}, Llama-3-8B only" in text
    assert f"{len(QUICK.loads)} loads instead of {len(FULL.loads)}" in text
    assert f"{len(QUICK.alphas_ms)} alphas instead of {len(FULL.alphas_ms)}" in text
