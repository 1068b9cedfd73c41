"""What does a matrix product on a CPU cost if every step has another size (decision 15)?

Five products by vLLM's own call on one core, as many as a small model has per layer and vocabulary. Steps of
one size, of all sizes from 150 to 750 tokens in random order, and of the same rounded down to multiples of
16 and of 32. Prints milliseconds per step of the mean size; a step's time is taken to grow with its tokens.

    python benchmarks/matrix_sizes.py [--steps 120] [--repeats 10]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

HIDDEN = 256
# Columns in, columns out: queries with keys and values, their output, the MLP's halves, the vocabulary.
SHAPES = ((HIDDEN, 3 * HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 8 * HIDDEN), (4 * HIDDEN, HIDDEN), (HIDDEN, 8192))
SIZES = range(150, 750)
# What vLLM keeps per layer (vllm/model_executor/layers/utils.py, 0.32).
KEPT = 32


def make_step() -> Callable[[int], None]:
    """Return what computes all products for so many tokens."""
    import torch
    import vllm._custom_ops as ops

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [(k, ops.create_onednn_mm(torch.randn(n, k).t(), KEPT)) for k, n in SHAPES]
    tokens = {k: torch.randn(max(SIZES), k) for k, _ in SHAPES}

    def step(num_tokens: int) -> None:
        for width, layer in layers:
            ops.onednn_mm(layer, tokens[width][:num_tokens], None)

    return step


def per_step_ms(step: Callable[[int], None], sizes: Sequence[int]) -> float:
    """Return milliseconds per step of the mean of `SIZES`."""
    start = time.perf_counter()
    for size in sizes:
        step(size)
    return (time.perf_counter() - start) * 1e3 / sum(sizes) * statistics.mean(SIZES)


def main() -> None:
    """Measure in turns and print one line a turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    draw = random.Random(0)
    step = make_step()
    per_step_ms(step, [320] * 20)
    for _ in range(options.repeats):
        drawn = [draw.choice(SIZES) for _ in range(options.steps)]
        ways = {
            "one size": [round(statistics.mean(drawn))] * options.steps,
            "all sizes": drawn,
            "multiples of 16": [size // 16 * 16 for size in drawn],
            "multiples of 32": [size // 32 * 32 for size in drawn],
        }
        print(", ".join(f"{name} {per_step_ms(step, sizes):.1f} ms" for name, sizes in ways.items()))


if __name__ == "__main__":
    main()
