"""How many prefill tokens each step has, over time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from niyama.bench.plots import colour
from niyama.bench.reproduce.cases import LLAMA_3_8B
from niyama.bench.reproduce.desk import Desk
from niyama.bench.reproduce.page import Finding, Page, Table, title
from niyama.bench.reproduce.tasks import Steps, StepSizes
from niyama.latency import get_profile
from niyama.scheduling.policy import BatchShape

TRACE = "azure-code"
POLICIES = ("edf", "paper", "niyama")
QPS = 4.0
HOURS = 0.5
SMALL, LARGE = 256, 2552
"""Chunks whose step times are compared: the usual one, and the largest of the artifact's."""

SHOWN_S = (900.0, 960.0)
"""The minute that is drawn step by step; both ends within the run."""


async def compute(desk: Desk) -> dict[str, Any]:
    """Return the steps of one minute and, over the whole run, tokens by size of their chunk."""
    steps = await desk.run([StepSizes(desk.case(TRACE, policy), QPS, HOURS) for policy in POLICIES])
    return {
        "qps": QPS,
        "shown_s": list(SHOWN_S),
        "profile_speedup": profile_speedup(),
        "policies": {policy: _summary(done) for policy, done in zip(POLICIES, steps, strict=True)},
    }


def _summary(done: Steps) -> dict[str, Any]:
    shown = [
        (round(at - SHOWN_S[0], 4), tokens)
        for at, tokens in zip(done.ended_at, done.prefill_tokens, strict=True)
        if SHOWN_S[0] <= at < SHOWN_S[1] and tokens
    ]
    busy = sorted(tokens for tokens in done.prefill_tokens if tokens)
    total, half, seen = sum(busy), 0, 0
    for tokens in busy:
        seen += tokens
        if 2 * seen >= total:
            half = tokens
            break
    spent_s = sum(
        step_s for step_s, tokens in zip(done.durations_s, done.prefill_tokens, strict=True) if tokens
    )
    return {
        "minute": [list(pair) for pair in shown],
        "largest": busy[-1],
        "mean": total / len(busy),
        "half_of_tokens_in_chunks_of": half,
        "share_by_size": _shares(busy),
        "prefill_tokens_per_busy_s": total / spent_s,
        "late": done.late,
    }


EDGES = (0, 128, 256, 512, 1024, 2048, 4096, 1 << 30)


def _shares(busy: Sequence[int]) -> list[float]:
    """Return the share of all prefill tokens by the size of their chunk, between EDGES."""
    total = sum(busy)
    return [sum(n for n in busy if low < n <= high) / total for low, high in pairwise(EDGES)]


def draw(data: dict[str, Any], page: Page) -> None:
    """Draw one minute, and where the tokens of the whole run were computed."""
    with page.axes(13.0, 5.0, ncols=2, width_ratios=(3, 2)) as (minute, sizes):
        for policy, found in data["policies"].items():
            seconds, tokens = zip(*found["minute"], strict=True)
            style = {"lw": 1.6, "alpha": 0.55} if policy != "niyama" else {"lw": 1.4, "alpha": 0.95}
            minute.plot(
                seconds, tokens, color=colour(policy), label=title(policy), drawstyle="steps-pre", **style
            )
        minute.set_yscale("log", base=2)
        minute.set_yticks(
            [128, 256, 512, 1024, 2048, 4096, 8192], ["128", "256", "512", "1k", "2k", "4k", "8k"]
        )
        minute.set_xlabel(f"seconds (from minute {data['shown_s'][0] / 60:g} of the run)")
        minute.set_ylabel("prefill tokens in the step")
        minute.set_ylim(64, 24576)
        minute.legend(fontsize=9, ncols=3, loc="upper left")
        names = ["<= 128", "<= 256", "<= 512", "<= 1k", "<= 2k", "<= 4k", "> 4k"]
        width = 0.8 / len(POLICIES)
        for number, (policy, found) in enumerate(data["policies"].items()):
            places = [n + (number - 1) * width for n in range(len(names))]
            heights = [100 * share for share in found["share_by_size"]]
            sizes.bar(places, heights, width * 0.92, color=colour(policy), label=title(policy))
        sizes.set_xticks(range(len(names)), names, fontsize=9)
        sizes.set_xlabel("size of the chunk, tokens")
        sizes.set_ylabel("share of all prefill tokens, %")
        sizes.grid(axis="x", visible=False)


def table(data: dict[str, Any]) -> Table:
    """Return what the chunks were."""
    rows = [
        [
            title(policy),
            str(found["largest"]),
            f"{found['mean']:.0f}",
            str(found["half_of_tokens_in_chunks_of"]),
            f"{found['prefill_tokens_per_busy_s']:.0f}",
        ]
        for policy, found in data["policies"].items()
    ]
    head = [
        "policy",
        "largest chunk",
        "mean",
        "half of the tokens in chunks of at least",
        "prefill tokens/s while prefilling",
    ]
    return Table(head, rows)


def findings(data: dict[str, Any]) -> list[Finding]:
    """Return the claim on chunk sizes, and what the profile says of them."""
    edf, paper, niyama = (data["policies"][policy] for policy in POLICIES)
    rate = edf["prefill_tokens_per_busy_s"]
    ours = (
        f"paper's policy up to {paper['largest']}, {paper['prefill_tokens_per_busy_s'] / rate:.2f}x; "
        f"Niyama up to {niyama['largest']}, {niyama['prefill_tokens_per_busy_s'] / rate:.2f}x"
    )
    possible = data["profile_speedup"]
    why = f"Ours is the mean while prefilling at {data['qps']:g} requests/s, decodes included. "
    why += (
        f"By the artifact's own step times a chunk of {LARGE} tokens alone is {possible:.2f} times as fast "
    )
    why += f"per token as one of {SMALL}"
    why += ", so that 2x cannot be reached with them." if possible < 1.9 else "."
    return [
        Finding(
            "chunks, and prefill throughput over chunk 256", "up to about 2500, about 2x there", ours, why
        )
    ]


def profile_speedup() -> float:
    """Return how much faster a prefill token is in a large chunk than in a small one, by the profile."""
    profile = get_profile(LLAMA_3_8B.profile)
    small_s = profile.predict_s(BatchShape(SMALL, 0)) / SMALL
    return small_s / (profile.predict_s(BatchShape(LARGE, 0)) / LARGE)
