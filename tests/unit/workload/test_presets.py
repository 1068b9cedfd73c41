from __future__ import annotations

import random

import pytest

from niyama.workload.presets import PRESETS, condense, load_preset

MEANS = {"azure-code": (2048, 27.9), "azure-conv": (1155, 211), "sharegpt": (2340, 438.7)}
"""Of the traces, see their sources in the data files."""


@pytest.mark.parametrize("name", PRESETS)
def test_preset_keeps_the_means_of_its_trace(name: str) -> None:
    cells = load_preset(name)
    total = sum(cell.num_requests for cell in cells)
    prompt = sum(cell.num_requests * cell.num_prefill_tokens for cell in cells) / total
    answer = sum(cell.num_requests * cell.num_decode_tokens for cell in cells) / total
    assert (prompt, answer) == pytest.approx(MEANS[name], rel=2e-3)


def test_condensed_lengths_keep_means_tails_and_dependence() -> None:
    rng = random.Random(0)
    prompts = [int(rng.lognormvariate(6, 1)) + 1 for _ in range(5000)]
    lengths = [(p, int(p * rng.uniform(0.5, 1.5)) + 1) for p in prompts]
    cells = condense(lengths)
    assert len(cells) < 400
    assert sum(cell.num_requests for cell in cells) == len(lengths)
    for index in (0, 1):
        exact = sum(pair[index] for pair in lengths) / len(lengths)
        mean = sum(cell.num_requests * cell[index + 1] for cell in cells) / len(lengths)
        assert mean == pytest.approx(exact, rel=1e-3)
        largest = max(pair[index] for pair in lengths)
        assert max(cell[index + 1] for cell in cells) > 0.6 * largest
    product = sum(p * a for p, a in lengths)
    assert sum(n * p * a for n, p, a in cells) == pytest.approx(product, rel=0.03)


def test_condense_of_one_request_is_itself() -> None:
    assert condense([(5, 7)]) == [(1, 5, 7)]


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'azure' is unknown; allowed: azure-code, azure-conv, sharegpt"):
        load_preset("azure")
