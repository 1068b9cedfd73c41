"""What serves what: the paper's traces, its three model set-ups, its tiers, and a policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from niyama.bench.reproduce.variants import VARIANTS, paper_with_alpha
from niyama.latency import get_profile, kv_tokens
from niyama.qos import QosBook, QosClass, Slo, paper_book
from niyama.scheduling.baselines import DEFAULT_CHUNK
from niyama.sim.bounds import bounds
from niyama.sim.live import ReplicaLimits, Role
from niyama.sim.run import Setup
from niyama.sim.verdicts import Criterion
from niyama.workload.arrivals import parse_arrivals
from niyama.workload.generate import Shares, Workload, load_lengths
from niyama.workload.tracefile import TraceRow

LONG_PROMPT_TOKENS = 6200
"""Longer prompts are "long" (paper, Figure 11)."""

SHAREGPT_TBT_S = 0.055
"""The pace of the interactive tier on ShareGPT; 50 ms elsewhere."""

FIXED_CHUNK = ("fcfs", "edf", "srpf")


class Trace(NamedTuple):
    """Lengths of requests.

    Attributes:
        name: Of the preset.
        title: For people.
        source: A trace file, or the name of the preset.
    """

    name: str
    title: str
    source: str

    @property
    def is_real(self) -> bool:
        """Whether the requests are a trace's own, not those of a preset."""
        return self.source != self.name

    @property
    def origin(self) -> str:
        """Where the lengths come from, for captions; no path of a machine."""
        return f"trace {Path(self.source).name}" if self.is_real else f"built-in preset {self.name}"


FILES = {
    "azure-code": ("Azure Code", "azure_code_2023.csv"),
    "azure-conv": ("Azure Conversation", "azure_conv_2023.csv"),
    "sharegpt": ("ShareGPT", "sharegpt_8k.csv"),
}
"""Preset to title and to the file that replaces it."""


def find_traces(directory: Path | None) -> dict[str, Trace]:
    """Return the three traces by name, each real if the directory has its file."""
    traces = {}
    for name, (title, file) in FILES.items():
        path = None if directory is None else directory / file
        traces[name] = Trace(name, title, str(path) if path is not None and path.is_file() else name)
    return traces


class Model(NamedTuple):
    """A model on its GPUs, by its profile."""

    title: str
    profile: str


LLAMA_3_8B = Model("Llama-3-8B, 1x A100", "a100-80gb/llama-3-8b/tp1")
MODELS = (
    LLAMA_3_8B,
    Model("Llama-2-7B, 2x A100 (for Qwen-7B)", "a100-80gb/llama-2-7b/tp2"),
    Model("Llama-3-70B, 4x H100", "h100-80gb/llama-3-70b/tp4"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload and the replica that serves it; hashable, so that equal ones are simulated once.

    Attributes:
        policy: Name in the registry, or in `variants.VARIANTS`.
        chunk: Tokens per step of a policy with a fixed chunk; None for its default.
        alpha_s: Static alpha of the policy `paper`, seconds per token; None for its default.
        arrivals: As `--arrivals` of `niyama simulate`.
        low_share: Share of requests of low importance.
        stretch: Factor on the length of every prompt, above 0.
    """

    trace: Trace
    policy: str
    model: Model = LLAMA_3_8B
    chunk: int | None = None
    alpha_s: float | None = None
    criterion: Criterion = "strict"
    role: Role = "both"
    arrivals: str = "poisson"
    low_share: float = 0.0
    stretch: float = 1.0
    seed: int = 0

    def setup(self) -> Setup:
        """Return the replica. Raises ValueError for an unknown policy or profile."""
        factory = VARIANTS.get(self.policy)
        if self.alpha_s is not None:
            factory = paper_with_alpha(self.alpha_s)
        return Setup(
            policy=self.policy,
            profile=self.model.profile,
            chunk=self.chunk,
            factory=factory,
            criterion=self.criterion,
            limits=self.limits,
        )

    @property
    def limits(self) -> ReplicaLimits:
        """What the replica can hold."""
        return ReplicaLimits(num_kv_tokens=kv_tokens(self.model.profile), role=self.role)

    def workload(self) -> Workload:
        """Return what arrives."""
        return Workload(
            name=self.trace.name,
            lengths=_lengths(self.trace.source, self.stretch),
            book=tiers(self.trace.name),
            arrivals=parse_arrivals(self.arrivals, ()),
            low_share=self.low_share,
            seed=self.seed,
        )

    def bound_qps(self) -> float:
        """Return the throughput without deadlines, of whatever policy."""
        return _bound_qps(self.trace, self.stretch, self.model.profile, self.limits)

    def policy_bound_qps(self) -> float:
        """Return the throughput without deadlines in steps of the policy's size."""
        if self.policy not in FIXED_CHUNK:
            return self.bound_qps()
        limits = replace(self.limits, max_num_batched_tokens=self.chunk or DEFAULT_CHUNK)
        return _bound_qps(self.trace, self.stretch, self.model.profile, limits)


def tiers(trace: str) -> QosBook:
    """Return the paper's three tiers for a trace."""
    book = paper_book()
    if trace != "sharegpt":
        return book
    interactive = QosClass("interactive", Slo(ttft_s=6.0, tbt_s=SHAREGPT_TBT_S))
    return replace(book, classes=MappingProxyType({**book.classes, "interactive": interactive}))


@cache
def _lengths(source: str, stretch: float) -> Shares[TraceRow]:
    lengths = load_lengths(source)
    if stretch == 1.0:
        return lengths
    return Shares(
        [
            (row._replace(num_prefill_tokens=max(1, round(row.num_prefill_tokens * stretch))), weight)
            for row, weight in lengths.weighted()
        ]
    )


@cache
def _bound_qps(trace: Trace, stretch: float, profile: str, limits: ReplicaLimits) -> float:
    """Return the throughput without deadlines; it depends on no policy."""
    workload = Case(trace=trace, policy="", stretch=stretch).workload()
    return bounds(workload, get_profile(profile), limits).qps
