"""One measurement from start to end: look at the server, warm up, run, and put the figures together."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from niyama import __version__
from niyama.bench.carriers import make_carrier
from niyama.bench.client import Flight, Progress, Rules, run
from niyama.bench.planned import Lengths, Plan, make_plan
from niyama.bench.prompts import PromptMaker, Vocabulary, learn_vocabulary, make_prompts
from niyama.bench.records import Header
from niyama.bench.saturation import Saturation, saturate
from niyama.bench.score import LateWatch, client_figures, score
from niyama.bench.sender import ClientError, open_session
from niyama.bench.servermetrics import server_figures, settled_counters
from niyama.bench.target import Endpoint, Target, find_target
from niyama.sim.verdicts import Criterion
from niyama.workload.generate import Workload
from niyama.workload.runlength import longest_slo_s as longest_slo_s
from niyama.workload.runlength import occurring, period_of

if TYPE_CHECKING:
    from aiohttp import ClientSession

SATURATION_REQUESTS = 1000
"""Requests of the workload whose lengths stand for it while it is measured what the server sustains."""

Tell = Callable[[str], None]
"""Hears in a few words what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What to measure; exactly one of `qps` and `load`, and of `num_requests` and `seconds`.

    Attributes:
        url: The server, with or without `/v1`.
        workload: Arrivals, lengths and classes.
        qps: Requests per second, on average.
        load: The same as a share of what the server sustains, which is measured first.
        num_requests: How many requests arrive.
        seconds: For how long they arrive.
        model: Name in the requests; None for the first that the server lists.
        endpoint: Of OpenAI's two.
        api_key: None if the server wants none.
        carrier: How requests ask for their class; `auto` is `xargs` at a server with Niyama's
            scheduler and `none` elsewhere.
        lengths: How the lengths are fitted to the model; the server's context is respected anyway.
        shared_prefix: See `PromptMaker`.
        num_warmup: Requests before the run, not scored.
        rules: When the run stops, and when it does not count.
        settles_at: The run ends as soon as a class has more late requests than this share of all of it;
            None to run to the end.
        criterion: By which the result judges.
        saturation_s: How long it is measured what the server sustains.
        saturation_in_flight: With how many requests at once.
        said: What the user asked for, in the user's words, for the header of the records.
    """

    url: str
    workload: Workload
    qps: float | None = None
    load: float | None = None
    num_requests: int | None = None
    seconds: float | None = None
    model: str | None = None
    endpoint: Endpoint = "completions"
    api_key: str | None = None
    carrier: str = "auto"
    lengths: Lengths = field(default_factory=Lengths)
    shared_prefix: float = 0.0
    num_warmup: int = 8
    rules: Rules = field(default_factory=Rules)
    settles_at: float | None = None
    criterion: Criterion = "strict"
    saturation_s: float = 45.0
    saturation_in_flight: int = 128
    said: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def asked_s(self, qps: float) -> float:
        """Return for how long requests are to arrive at a rate above 0, seconds."""
        return (self.seconds or 0.0) if self.num_requests is None else self.num_requests / qps


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: what was done, every request of it, and the figures (docs/bench.md has the keys)."""

    header: Header
    flight: Flight
    result: dict[str, Any]


async def measure(spec: Spec, *, tell: Tell | None = None, progress: Progress | None = None) -> Measured:
    """Measure a server.

    Args:
        spec: What to do.
        tell: Hears of the steps before the run.
        progress: Hears of the run.

    Raises:
        ClientError: aiohttp is missing, or a request failed before the run.
        TargetError: the server cannot be measured.
        ValueError: the carrier, or the lengths, cannot be; names the option.
    """
    tell = tell or (lambda text: None)
    async with open_session() as session:
        tell(f"looking at {spec.url}")
        target = await find_target(
            session, spec.url, model=spec.model, endpoint=spec.endpoint, api_key=spec.api_key
        )
        bench = _Bench(spec, session, target, await learn_vocabulary(session, target))
        await bench.warm_up(tell)
        saturation = None if spec.load is None else await bench.saturate(tell)
        return await bench.run(saturation, tell, progress)


class _Bench:
    """A measurement at a server that is known."""

    def __init__(self, spec: Spec, session: ClientSession, target: Target, words: Vocabulary) -> None:
        self.spec, self.session, self.target, self.words = spec, session, target, words
        self.run_id = f"nb{secrets.token_hex(4)}"
        self.carrier = spec.carrier
        if spec.carrier == "auto":
            self.carrier = "none" if target.policy is None else "xargs"
        self.carry = make_carrier(self.carrier, spec.workload.book, occurring(spec.workload))
        totals = [n for n in (spec.lengths.max_total, target.max_model_len) if n is not None]
        self.lengths = replace(
            spec.lengths,
            min_prompt=max(words.min_tokens, spec.lengths.min_prompt),
            max_total=min(totals, default=None),
        )

    def maker(self, purpose: int) -> PromptMaker:
        """Return a maker of prompts that no other purpose has."""
        seed = self.spec.workload.seed * 8 + purpose
        return PromptMaker(self.target, self.words, seed=seed, shared_prefix=self.spec.shared_prefix)

    def plan(self, qps: float, num_requests: int | None, seconds: float | None = None) -> Plan:
        return make_plan(
            self.spec.workload, qps, num_requests=num_requests, seconds=seconds, lengths=self.lengths
        )

    async def warm_up(self, tell: Tell) -> None:
        """Send a few requests that do not count: first use costs a server more than any later one."""
        num_warmup = self.spec.num_warmup
        if not num_warmup:
            return
        tell(f"warm-up, {num_warmup} requests")
        requests = [replace(request, due_at=0.0) for request in self.plan(1.0, num_warmup).requests]
        prompts = make_prompts(self.maker(1), requests)
        flight = await run(
            self.session, self.target, requests, prompts, self.carry, run_id=f"{self.run_id}-warm"
        )
        for record in flight.records:
            if record.error is not None:
                raise ClientError(f"{self.target.url}: a warm-up request failed: {record.error}")

    async def saturate(self, tell: Tell) -> Saturation:
        spec = self.spec
        tell(f"measuring what the server sustains, {spec.saturation_s:g} s")
        return await saturate(
            self.session,
            self.target,
            self.plan(1.0, SATURATION_REQUESTS),
            self.maker(2),
            self.carry,
            num_in_flight=spec.saturation_in_flight,
            seconds=spec.saturation_s,
            run_id=f"{self.run_id}-full",
        )

    async def run(self, saturation: Saturation | None, tell: Tell, progress: Progress | None) -> Measured:
        spec = self.spec
        qps = spec.qps if saturation is None else saturation.qps * (spec.load or 0.0)
        plan = self.plan(qps or 0.0, spec.num_requests, spec.seconds)
        if not plan.requests:
            raise ClientError(f"no request arrives in {spec.seconds:g} s; allowed: more --seconds or --qps")
        tell(f"making {len(plan.requests)} prompts")
        prompts = make_prompts(self.maker(0), plan.requests)
        book = spec.workload.book
        settle = None if spec.settles_at is None else LateWatch(plan.requests, book, spec.settles_at)
        before = await settled_counters(self.session, self.target)
        flight = await run(
            self.session,
            self.target,
            plan.requests,
            prompts,
            self.carry,
            carrier=self.carrier,
            run_id=self.run_id,
            rules=spec.rules.for_promises(longest_slo_s(spec.workload)),
            progress=progress,
            settle=settle,
        )
        after = await settled_counters(self.session, self.target)
        header = self.header(flight, plan, qps or 0.0, saturation)
        figures = {
            **self.client_figures(flight, saturation),
            "run_id": self.run_id,
            "target": header.target,
            "versions": header.versions,
            "seed": header.seed,
            "workload": header.workload,
            **score(flight.records, book, spec.criterion, flight.wall_s),
            **server_figures(before, after),
        }
        return Measured(header, flight, figures)

    def client_figures(self, flight: Flight, saturation: Saturation | None) -> dict[str, Any]:
        """Return how the client fared; a run at a load that was not measured right does not count either."""
        figures = client_figures(flight, self.spec.rules)
        if saturation is not None:
            found = client_figures(saturation.flight, self.spec.rules)
            reasons = [f"while load 1 was measured: {reason}" for reason in found["invalid_because"]]
            figures["invalid_because"] += reasons
            figures["valid"] = not figures["invalid_because"]
        return figures

    def header(self, flight: Flight, plan: Plan, qps: float, saturation: Saturation | None) -> Header:
        spec, lengths = self.spec, self.lengths
        workload = {
            **spec.said,
            "trace": spec.workload.name,
            "qps": qps,
            "load": spec.load,
            "saturation_qps": None if saturation is None else saturation.qps,
            "saturation_in_flight": None if saturation is None else saturation.num_in_flight,
            "requests": len(plan.requests),
            "arrivals_s": plan.last_due_at,
            "longest_slo_s": longest_slo_s(spec.workload),
            "asked_s": spec.asked_s(qps),
            "period_s": period_of(spec.workload),
            "class_shares": spec.workload.class_shares,
            "carrier": self.carrier,
            "scale_lengths": lengths.scale,
            "max_prompt": lengths.max_prompt,
            "max_output": lengths.max_output,
            "max_total": lengths.max_total,
            "cut_share": plan.num_cut / max(1, len(plan.requests)),
            "shared_prefix": spec.shared_prefix,
            "warmup_requests": spec.num_warmup,
        }
        versions = {"niyama": __version__, "python": platform.python_version()}
        if self.target.vllm_version is not None:
            versions["vllm"] = self.target.vllm_version
        return Header(
            run_id=self.run_id,
            target=self.target.to_json(),
            versions=versions,
            seed=spec.workload.seed,
            book=spec.workload.book,
            workload=workload,
            started_at=flight.started_at,
            started_monotonic=flight.started_monotonic,
        )
