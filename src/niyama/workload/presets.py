"""Built-in length distributions, condensed from public traces: `azure-code`, `azure-conv`, `sharegpt`.

A preset is a few hundred cells of (share, prompt, answer). The requests of a trace are cut into
groups by prompt length, each group again by answer length, finer towards the long ends; a cell
holds its requests' mean lengths. So the means are those of the trace, and its tails and the way in which
answers depend on prompts are kept.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import NamedTuple

PRESETS = ("azure-code", "azure-conv", "sharegpt")

PROMPT_CUTS = (*(n / 24 for n in range(24)), 0.98, 0.99, 0.995)
ANSWER_CUTS = (*(n / 10 for n in range(10)), 0.95, 0.98, 0.99, 0.997)
"""Quantiles at which a group begins."""


class Cell(NamedTuple):
    """So many requests of the trace, and their mean lengths in tokens, rounded."""

    num_requests: int
    num_prefill_tokens: int
    num_decode_tokens: int


def load_preset(name: str) -> list[Cell]:
    """Return the cells of a built-in distribution. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"preset: {name!r} is unknown; allowed: {', '.join(PRESETS)}")
    text = files("niyama.workload").joinpath(f"data/{name}.csv").read_text(encoding="utf-8")
    rows = csv.reader(line for line in text.splitlines() if not line.startswith("#"))
    next(rows)
    return [Cell(*map(int, row)) for row in rows]


def condense(lengths: Iterable[tuple[int, int]]) -> list[Cell]:
    """Return the cells of a trace's (prompt, answer) lengths; O(n log n)."""
    cells: list[Cell] = []
    for group in _cut(sorted(lengths), PROMPT_CUTS):
        for cell in _cut(sorted(group, key=lambda pair: (pair[1], pair[0])), ANSWER_CUTS):
            prompts, answers = zip(*cell, strict=True)
            cells.append(Cell(len(cell), round(sum(prompts) / len(cell)), round(sum(answers) / len(cell))))
    return cells


def _cut(pairs: Sequence[tuple[int, int]], cuts: Sequence[float]) -> list[Sequence[tuple[int, int]]]:
    edges = sorted({round(cut * len(pairs)) for cut in cuts} | {len(pairs)})
    return [pairs[a:b] for a, b in pairwise(edges)]
