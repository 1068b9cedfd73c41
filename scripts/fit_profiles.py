"""Fit the step-time tables in src/niyama/latency/data from profiles of single operators.

    python scripts/fit_profiles.py DIR [--check]

DIR holds `layer_linear_ops.csv` (device, model, num_layers, tensor_parallel, num_tokens,
layer_linear_ms, embedding_ms) and `all_reduce.csv` (device, num_workers, size_bytes, all_reduce_ms),
both computed from microsoft/vidur, data/profiling (MIT). Every fifth size is held out before fitting;
the error there is stored beside each table. Then calibrates what an engine adds, so that Llama-3-8B on an
A100 comes out as the artifact's linear model. Prints the tables of docs/profiles.md. `--check` compares
with the committed files instead of writing them, and exits with 1 if they differ.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from niyama.latency.deployments import A100, Deployment
from niyama.latency.fitted import FITTED, Engine, FittedProfile, Kernels, data_name, read_kernels, step_costs
from niyama.latency.leastsquares import solve_nonnegative
from niyama.latency.profiles import get_profile
from niyama.scheduling.policy import BatchShape

DATA = Path(__file__).parents[1] / "src/niyama/latency/data"
SOURCE = "Fitted from microsoft/vidur, data/profiling, Copyright (c) Microsoft Corporation, MIT licence"
HELD_OUT_EVERY, HELD_OUT = 5, 2
KNOT_TOLERANCE = 0.02
"""A knot is added where straight lines would miss the monotone curve by more, relatively."""
EXTRAPOLATE_FROM = 4096
TOKEN_REGIMES = ((1, 128), (129, 512), (513, 2048), (2049, 4096), (4097, 32_768))
BYTE_REGIMES = ((1, 2**20), (2**20 + 1, 2**23), (2**23 + 1, 2**27))
MEASURED_AS = {"llama-3-70b": {"h100-80gb": "llama-2-70b"}}
"""Llama-2-70B has the layers of Llama-3-70B, number by number; it is what was profiled on H100."""

A100_PAIR = {"floor_us": 55.0, "latency_us": 40.0, "gb_per_s": 173.0}
"""Two A100s over NVLink, for which all_reduce.csv is of no use: it is the median over rows of both
`devices_per_node` 1 (over the network) and 2, so half of a network's time. These three are read off
Vidur's own rows with devices_per_node 2, data/profiling/network/a100_dgx/all_reduce.csv: 0.055 ms up to 3 MB,
0.0635 at 4.2 MB, 0.089 at 7.4 MB, 0.382 at 57 MB, 0.427 at 66.8 MB; within 8 % at each of them."""

Curve = dict[int, float]
"""Time in microseconds by tokens or bytes."""


def main() -> int:
    """Fit, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dir", type=Path, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    args = parser.parse_args()
    fitted = {data_name(d): fit_kernels(args.dir, d) for d in FITTED.values()}
    engine = calibrate(fitted[data_name(FITTED["a100-80gb/llama-3-8b/tp1-fitted"])])
    report({**fitted, "engine": engine})
    texts = {name: _as_text(found) for name, found in {**fitted, "engine": engine}.items()}
    if not args.check:
        for name, text in texts.items():
            (DATA / f"{name}.json").write_text(text, encoding="utf-8")
        return 0
    differing = [name for name, text in texts.items() if (DATA / f"{name}.json").read_text("utf-8") != text]
    if differing:
        print(f"not as committed: {', '.join(differing)}", file=sys.stderr)
    return int(bool(differing))


def fit_kernels(folder: Path, deployment: Deployment) -> dict[str, Any]:
    """Return the tables of one deployment, with their errors."""
    gpu, model, num_gpus = deployment.gpu.name, deployment.model.name, deployment.tensor_parallel
    profiled = MEASURED_AS.get(model, {}).get(gpu, model)
    where = {"device": gpu, "model": profiled, "tensor_parallel": str(num_gpus)}
    linear = read_curve(folder / "layer_linear_ops.csv", where, "num_tokens", "layer_linear_ms")
    embedding = read_curve(folder / "layer_linear_ops.csv", where, "num_tokens", "embedding_ms")
    train, held_out = split(linear)
    knots, values = fit_monotone(train)
    found: dict[str, Any] = {
        "source": SOURCE,
        "made_by": "scripts/fit_profiles.py",
        "profiled": f"{gpu}, {profiled}, tensor parallel {num_gpus}",
        "tokens": knots,
        "linear_us": values,
        "embedding_us": fit_line(embedding),
        "errors": {"linear": errors(interpolate(knots, values), held_out, TOKEN_REGIMES)},
    }
    if max(linear) > EXTRAPOLATE_FROM:
        short = {n: t for n, t in train.items() if n <= EXTRAPOLATE_FROM}
        beyond = {n: t for n, t in linear.items() if n > EXTRAPOLATE_FROM}
        found["errors"]["extrapolated"] = errors(interpolate(*fit_monotone(short)), beyond, TOKEN_REGIMES)
    if num_gpus > 1 and gpu == A100.name:
        found["all_reduce"] = A100_PAIR
    elif num_gpus > 1:
        workers = {"device": f"{gpu}-dgx", "num_workers": str(num_gpus)}
        messages = read_curve(folder / "all_reduce.csv", workers, "size_bytes", "all_reduce_ms")
        train, held_out = split(messages)
        found["all_reduce"] = fit_all_reduce(train)
        found["errors"]["all_reduce"] = errors(all_reduce_us(found["all_reduce"]), held_out, BYTE_REGIMES)
    return found


def read_curve(path: Path, where: dict[str, str], x: str, y: str) -> Curve:
    """Return the mean time in microseconds per size of the rows that match, sizes rising."""
    times: dict[int, list[float]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if all(row[name] == value for name, value in where.items()):
                times[int(row[x])].append(1e3 * float(row[y]))
    if not times:
        raise SystemExit(f"{path}: no row with {where}")
    return {size: sum(times[size]) / len(times[size]) for size in sorted(times)}


def split(curve: Curve) -> tuple[Curve, Curve]:
    """Return the points to fit and the points held out; neither end is held out."""
    sizes = list(curve)
    out = {size for i, size in enumerate(sizes[:-1]) if i % HELD_OUT_EVERY == HELD_OUT}
    return {s: t for s, t in curve.items() if s not in out}, {s: curve[s] for s in out}


def fit_monotone(curve: Curve) -> tuple[list[int], list[float]]:
    """Return knots of a piecewise-linear curve that never falls, least squares of relative errors."""
    sizes = np.array(list(curve), dtype=float)
    times = np.array(list(curve.values()))
    rising = isotonic(times)
    chosen = sorted(_choose(sizes, rising, 0, len(sizes) - 1) | {0, len(sizes) - 1})
    knots = sizes[chosen]
    # Each point is a mix of its two knots: solve for the values at the knots.
    hats = np.stack([np.interp(sizes, knots, unit) for unit in np.eye(len(knots))], axis=1)
    values = np.linalg.lstsq(hats / times[:, None], np.ones(len(times)), rcond=None)[0]
    return [int(k) for k in knots], [_rounded(v) for v in isotonic(values)]


def isotonic(times: np.ndarray) -> np.ndarray:
    """Return the nearest curve that never falls (pool adjacent violators, relative weights)."""
    pools: list[list[float]] = []
    for time in times:
        pools.append([time, 1.0 / time**2, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, weight, count = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * weight) / (last[1] + weight)
            last[1] += weight
            last[2] += count
    return np.concatenate([np.full(int(count), mean) for mean, _, count in pools])


def _choose(sizes: np.ndarray, times: np.ndarray, first: int, last: int) -> set[int]:
    """Return where knots are needed between two points (Ramer, Douglas and Peucker)."""
    if last - first < 2:
        return set()
    inner = slice(first + 1, last)
    line = np.interp(sizes[inner], sizes[[first, last]], times[[first, last]])
    missed = np.abs(line / times[inner] - 1.0)
    worst = first + 1 + int(missed.argmax())
    if missed.max() <= KNOT_TOLERANCE:
        return set()
    return {worst} | _choose(sizes, times, first, worst) | _choose(sizes, times, worst, last)


def fit_line(curve: Curve) -> list[float]:
    """Return the fixed time and the time per token of a straight line, neither negative."""
    slope, fixed = np.polyfit(list(curve), list(curve.values()), 1)
    return [_rounded(max(0.0, fixed)), _rounded(max(0.0, slope))]


def fit_all_reduce(curve: Curve) -> dict[str, float]:
    """Return the floor (median of small messages), and latency and bandwidth (line through large ones)."""
    small = [t for size, t in curve.items() if size <= BYTE_REGIMES[0][1]]
    large = {size: t for size, t in curve.items() if size > BYTE_REGIMES[1][1]}
    times = np.array(list(large.values()))
    rows = np.array([[1.0, size] for size in large]) / times[:, None]
    latency, per_byte = np.linalg.lstsq(rows, np.ones(len(times)), rcond=None)[0]
    return {
        "floor_us": _rounded(float(np.median(small))),
        "latency_us": _rounded(latency),
        "gb_per_s": _rounded(1e-3 / per_byte),
    }


def all_reduce_us(fit: dict[str, float]) -> Callable[[float], float]:
    """Return the fitted time of a message, microseconds."""
    return lambda size: max(fit["floor_us"], fit["latency_us"] + 1e-3 * size / fit["gb_per_s"])


def interpolate(knots: list[int], values: list[float]) -> Callable[[float], float]:
    """Return the fitted time of a layer, microseconds, as the package computes it."""
    kernels = Kernels(tuple(knots), tuple(values), (0.0, 0.0), None)
    return lambda size: kernels.layer_s(int(size))


def errors(
    predict: Callable[[float], float], points: Curve, regimes: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Return mean and 95th percentile of the absolute relative error per regime that has points."""
    rows = []
    for low, high in regimes:
        missed = [abs(predict(size) / t - 1.0) for size, t in points.items() if low <= size <= high]
        if missed:
            mean, p95 = float(np.mean(missed)), float(np.quantile(missed, 0.95))
            sizes = [low, high]
            rows.append(
                {"sizes": sizes, "num_points": len(missed), "mean": round(mean, 4), "p95": round(p95, 4)}
            )
    return rows


def grid() -> list[BatchShape]:
    """Return the steps on which both models of Llama-3-8B are compared."""
    shapes = []
    for chunk, context in [(0, 0), *product((128, 256, 512, 1024, 2048), (0, 1000, 4000))]:
        for decodes, each in [(0, 0), *product((8, 32, 64, 128), (500, 1000, 2000, 4000))]:
            shape = BatchShape(0, decodes, decodes * each)
            if chunk + decodes > 0 and shape.decode_context <= 425_000:
                shapes.append(shape.with_chunk(chunk, context) if chunk else shape)
    return shapes


def calibrate(found: dict[str, Any]) -> dict[str, Any]:
    """Return what an engine adds, by non-negative least squares of relative errors on the grid."""
    deployment = FITTED["a100-80gb/llama-3-8b/tp1-fitted"]
    kernels = read_kernels(found)
    ideal = step_costs(deployment, kernels, Engine(0.0, 0.0, 1.0, 1.0, 1.0))
    layers, artifact = deployment.model.num_layers, get_profile(deployment.name)
    shapes = grid()
    wanted = np.array([artifact.predict_s(shape) for shape in shapes])
    rows = []
    for shape in shapes:
        linear_s = layers * kernels.layer_s(shape.num_prefill_tokens + shape.num_decode_tokens)
        kv_s = ideal.per_kv_token * (shape.decode_context + shape.prefill_context)
        rows.append([1.0, shape.num_decode_tokens, linear_s, kv_s, ideal.per_pair * shape.attention_pairs])
    # The kernels at the GPU's full speed are the least that a step takes; only what comes on top is free.
    model = _profile(deployment, kernels, Engine(0.0, 0.0, 1.0, 1.0, 1.0))
    least = np.array([model.predict_s(shape) for shape in shapes])
    relative = np.array(rows) / wanted[:, None]
    scale = np.sqrt((relative**2).sum(axis=0))
    relative /= scale
    target = relative.T @ ((wanted - least) / wanted)
    more = solve_nonnegative((relative.T @ relative).tolist(), target.tolist(), [0.0] * 5, sweeps=20_000)
    fixed_s, per_decode_s, linear, kv, pairs = np.array(more) / scale
    engine: dict[str, Any] = {
        "source": "Calibrated by scripts/fit_profiles.py to the artifact's model of Llama-3-8B on one A100",
        "fixed_s": _rounded(fixed_s, 3),
        "per_decode_s": _rounded(per_decode_s, 3),
        "linear_factor": _rounded(1.0 + linear, 3),
        "bandwidth_share": _rounded(1.0 / (1.0 + kv), 3),
        "flops_share": _rounded(1.0 / (1.0 + pairs), 3),
    }
    fitted = _profile(deployment, kernels, Engine(*(engine[name] for name in Engine._fields)))
    engine["ratios"] = ratios(fitted, shapes, wanted)
    return engine


def ratios(model: Any, shapes: Sequence[BatchShape], wanted: np.ndarray) -> list[dict[str, Any]]:
    """Return mean, 5th and 95th percentile of fitted over artifact, per size of the chunk."""
    found = np.array([model.predict_s(shape) for shape in shapes]) / wanted
    chunks = np.array([shape.num_prefill_tokens for shape in shapes])
    return [
        {
            "chunk": int(chunk),
            "num_points": int((chunks == chunk).sum()),
            "mean": round(float(found[chunks == chunk].mean()), 3),
            "p5": round(float(np.quantile(found[chunks == chunk], 0.05)), 3),
            "p95": round(float(np.quantile(found[chunks == chunk], 0.95)), 3),
        }
        for chunk in sorted(set(chunks))
    ]


def _profile(deployment: Deployment, kernels: Kernels, engine: Engine) -> Any:
    return FittedProfile("calibration", step_costs(deployment, kernels, engine))


def report(found: dict[str, Any]) -> None:
    """Print the tables of docs/profiles.md."""
    print("| table | sizes | points | mean error | p95 |\n|---|---|---|---|---|")
    for name, tables in found.items():
        for kind, rows in tables.get("errors", {}).items():
            for row in rows:
                low, high = row["sizes"]
                points = f"{low}-{high} | {row['num_points']}"
                print(f"| {name} {kind} | {points} | {row['mean']:.1%} | {row['p95']:.1%} |")
    print("\n| chunk | points | mean ratio | p5 | p95 |\n|---|---|---|---|---|")
    for row in found["engine"]["ratios"]:
        print(f"| {row['chunk']} | {row['num_points']} | {row['mean']} | {row['p5']} | {row['p95']} |")


def _rounded(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def _as_text(found: dict[str, Any]) -> str:
    lines = (f'  "{name}": {json.dumps(value)}' for name, value in found.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    raise SystemExit(main())
