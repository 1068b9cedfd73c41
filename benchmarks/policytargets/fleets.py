"""Parts 7 and 8: who gets a request in a fleet, and how many GPUs a shared fleet saves."""

from __future__ import annotations

import math
from dataclasses import replace

from niyama.bench.reproduce.cases import Trace
from niyama.bench.reproduce.fleet import QPS, SILO_POLICY
from niyama.sim.silo import BATCH_CHUNK, INTERACTIVE_CHUNK
from policytargets.capacity import HOURS, Traces, niyama_qps
from policytargets.runs import Runs
from policytargets.trials import Trial, under
from policytargets.verdict import Part, Table, Target, at_least, ratio

TRACES = ("azure-code", "sharegpt")
BOOK = "tight"
REPLICAS = 16
ROUTERS = ("round-robin", "least-loaded", "slack-aware")
OVER_LEAST_LOADED = 1.05
OVER_SILOS = 1.32


def routers(runs: Runs, traces: Traces) -> Part:
    """Return what a fleet takes behind each router, and what slack-aware routing is to bring."""
    targets: list[Target] = []
    rows: list[list[str]] = []
    for name in TRACES:
        single_qps = niyama_qps(runs, BOOK, traces[name])
        found = fleet_qps(runs, traces[name], single_qps)
        slack, least = found["slack-aware"], found["least-loaded"]
        text = f"{traces[name].title}, {BOOK} book: slack-aware >= {OVER_LEAST_LOADED} x least-loaded"
        targets.append(at_least(text, slack, OVER_LEAST_LOADED * least))
        bound_qps = Trial(trace=traces[name], policy="niyama").bound_qps()
        numbers = [single_qps, *(found[router] for router in ROUTERS), bound_qps]
        rows.append([traces[name].title, *(f"{qps:.3f}" for qps in numbers), f"{ratio(slack, least):.3f}x"])
    title = f"{REPLICAS} replicas, {BOOK} book, {runs.hours(HOURS[BOOK]):g} h of arrivals"
    headers = ["trace", "one replica", *ROUTERS, "bound", "slack-aware over least-loaded"]
    return Part(title, targets, [Table(f"{title}, requests/s per replica", headers, rows)])


def fleet_qps(runs: Runs, trace: Trace, single_qps: float) -> dict[str, float]:
    """Return the capacity of a fleet behind each router, requests per second and replica.

    Args:
        runs: Where results are kept.
        trace: The lengths.
        single_qps: The capacity of one replica alone; the search begins there.
    """
    found: dict[str, float] = {}
    near_qps = single_qps
    for router in ROUTERS:
        fleet = Trial(trace=trace, policy="niyama", book=BOOK, replicas=REPLICAS, router=router)
        found[router] = runs.capacity(fleet, HOURS[BOOK], REPLICAS * near_qps) / REPLICAS
        near_qps = OVER_LEAST_LOADED * found[router]
    return found


def silos(runs: Runs, traces: Traces) -> Part:
    """Return the GPUs for the paper's load, shared and in silos, and what a GPU takes in each."""
    trace, hours = traces["azure-code"], HOURS["paper"]
    shared = Trial(trace=trace, policy="niyama")
    siloed = runs.fewest(under(shared, SILO_POLICY), QPS, hours, is_silo=True)
    num_siloed, num_shared = sum(siloed.values()), runs.fewest(shared, QPS, hours)["all"]
    siloed_qps, shared_qps = _siloed_qps(runs, shared, hours), niyama_qps(runs, "paper", trace)
    bound_qps = shared.bound_qps()
    fewest = math.ceil(QPS / bound_qps)
    rows = [
        [f"silos ({' + '.join(map(str, siloed.values()))})", str(num_siloed), f"{siloed_qps:.3f}", ""],
        ["shared", str(num_shared), f"{shared_qps:.3f}", f"{shared_qps / siloed_qps:.2f}x"],
        ["no deadlines", str(fewest), f"{bound_qps:.3f}", f"{bound_qps / siloed_qps:.2f}x"],
    ]
    target = Target(
        f"{QPS:g}/s of {trace.title}: the silos' GPUs over the shared fleet's",
        f">= {OVER_SILOS:.2f}x",
        f"{num_siloed / num_shared:.2f}x ({num_siloed} against {num_shared}; {fewest} without deadlines)",
        num_siloed >= OVER_SILOS * num_shared,
    )
    title = f"GPUs for {QPS:g} requests/s of {trace.title}, paper's book, {runs.hours(hours):g} h of arrivals"
    headers = ["fleet", "GPUs", "one GPU takes, requests/s", "over silos"]
    return Part(title, [target], [Table(title, headers, rows)])


def _siloed_qps(runs: Runs, shared: Trial, hours: float) -> float:
    """Return what a GPU takes in two silos whose sizes are in proportion to what they need, requests/s.

    By the capacity of one replica of each; the classes come in equal shares.
    """
    is_paced = [one.slo.is_interactive for one in shared.classes.classes.values()]
    gpus_per_qps = 0.0
    for paced, chunk in ((True, INTERACTIVE_CHUNK), (False, BATCH_CHUNK)):
        mix = tuple(float(is_one == paced) for is_one in is_paced)
        silo = replace(under(shared, SILO_POLICY), chunk=chunk, mix=mix)
        gpus_per_qps += sum(mix) / len(mix) / runs.capacity(silo, hours)
    return 1 / gpus_per_qps
