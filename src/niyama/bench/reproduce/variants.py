"""Policies that only the figures need: Niyama with mechanisms taken away, the paper's with other numbers."""

from __future__ import annotations

from functools import partial

from niyama.scheduling.deadlines import Anchor
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.paper import PaperPolicy
from niyama.scheduling.policy import BatchShape, LatencyModel
from niyama.scheduling.registry import PolicyFactory

PREFILL_ALPHA_S = 0.016
PREFILL_CHUNK = 8192
"""What the artifact sets for prefill-only nodes (Figure 8)."""


class DeadlineOrder(NiyamaPolicy):
    """Niyama without hybrid prioritization: alpha stays 0, the order is earliest deadline first."""

    name = "niyama-edf-order"

    @property
    def alpha_s(self) -> float:
        """Zero, whatever the load."""
        return 0.0


class ChunkingAlone(DeadlineOrder):
    """Niyama without hybrid prioritization and without relegation."""

    name = "niyama-chunking-alone"

    def _relegate(self, now_s: float, stall_s: float) -> list[str]:
        """Set nobody aside."""
        return []


class PrefillNodePaper(PaperPolicy):
    """The published policy on a node without decodes: every step is as large as the engine takes."""

    name = "paper-prefill-node"

    def _step_size(self, decodes: BatchShape, slack_s: float, limits: Limits) -> int:
        """Return the largest step: no decode waits for its end."""
        return PREFILL_CHUNK


def paper_with_alpha(alpha_s: float) -> PolicyFactory:
    """Return what makes the published policy with another static alpha, seconds per token."""
    return partial(_paper, alpha_s=alpha_s)


def _paper(model: LatencyModel, anchor: Anchor, chunk: int | None, alpha_s: float) -> PaperPolicy:
    return PaperPolicy(model, anchor, alpha_s)


VARIANTS: dict[str, PolicyFactory] = {
    "edf+chunking": lambda model, anchor, chunk: ChunkingAlone(model, anchor),
    "edf+chunking+relegation": lambda model, anchor, chunk: DeadlineOrder(model, anchor),
    "paper-prefill-node": lambda model, anchor, chunk: PrefillNodePaper(model, anchor, PREFILL_ALPHA_S),
}
"""By the name that a figure gives them."""
