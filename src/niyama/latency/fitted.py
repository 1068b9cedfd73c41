"""Step times composed from measured parts: fitted tables of a layer, and a roofline for attention.

    step = fixed + per_decode·d + output(d + 1)
           + linear_factor·layers·linear(p + d) + embedding(p + d) + 2·layers·all_reduce((p + d)·hidden)
           + prefill attention's operations / reached FLOP/s + KV that is read / reached bandwidth

`linear`, `embedding` and `all_reduce` are fitted by ``scripts/fit_profiles.py`` and lie in ``data/``
with their errors. What an engine adds to its kernels (`fixed`, `per_decode`, the factor, both shares)
is calibrated there too: so that Llama-3-8B on one A100, built like this, is the artifact's linear
model of the same. See docs/profiles.md.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any, NamedTuple

from niyama.latency.deployments import (
    A100_LLAMA_2_7B,
    A100_LLAMA_3_8B,
    BYTES_PER_VALUE,
    H100_LLAMA_3_70B,
    Deployment,
    register_kv_tokens,
)
from niyama.latency.profiles import register_profile
from niyama.latency.search import ChunkSearch
from niyama.latency.stairs import Stairs
from niyama.scheduling.policy import BatchShape

TABLE_TOKENS = 16_384
"""Step sizes whose batch time is tabulated; a larger one is computed when asked for."""


class Engine(NamedTuple):
    """What an engine makes of the kernels' times.

    Attributes:
        fixed_s: Host time of a step, seconds.
        per_decode_s: Host time per decode token, seconds.
        linear_factor: A layer's linear operators in the engine over those of the profile, >= 1.
        bandwidth_share: Reached share of memory bandwidth where KV is read, 0 to 1.
        flops_share: Reached share of the GPU's FLOP/s in prefill attention, 0 to 1.
    """

    fixed_s: float
    per_decode_s: float
    linear_factor: float
    bandwidth_share: float
    flops_share: float


class AllReduce(NamedTuple):
    """Time to add up a message over all GPUs: a floor, then latency and bandwidth, all > 0."""

    floor_s: float
    latency_s: float
    bytes_per_s: float

    def duration_s(self, num_bytes: float) -> float:
        """Return the time of one message, seconds."""
        return max(self.floor_s, self.latency_s + num_bytes / self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class Kernels:
    """The fitted tables of one deployment.

    Attributes:
        tokens: Knots of `linear_s`, rising, the first is 1.
        linear_s: Linear and elementwise operators of one layer at each knot, seconds, never falling.
            Straight lines between; beyond the last knot time is proportional to tokens.
        embedding_s: Time of the input embedding: fixed, and per token, seconds.
        all_reduce: None on one GPU.
    """

    tokens: tuple[int, ...]
    linear_s: tuple[float, ...]
    embedding_s: tuple[float, float]
    all_reduce: AllReduce | None

    def layer_s(self, num_tokens: int) -> float:
        """Return the linear operators' time of one layer, seconds; never falls with tokens >= 0."""
        tokens, linear_s = self.tokens, self.linear_s
        right = bisect_right(tokens, num_tokens)
        if right == 0:
            return linear_s[0]
        if right == len(tokens):
            return linear_s[-1] * num_tokens / tokens[-1]
        share = (num_tokens - tokens[right - 1]) / (tokens[right] - tokens[right - 1])
        return linear_s[right - 1] + share * (linear_s[right] - linear_s[right - 1])


@dataclass(frozen=True, slots=True)
class StepCosts:
    """A step's time in its terms, seconds, for one deployment; compare with `BatchShape`.

    Attributes:
        batch_s: All that depends on the number of tokens alone, for 0 to `TABLE_TOKENS` tokens.
        larger_batch_s: The same for any number of tokens.
        fixed: Host time of a step.
        per_decode: Host time of a decode.
        output_read: Reading the weights of the output layer, the least that it takes.
        output_row: Operations of the output layer per sampled token: one per decode, and one for a
            chunk that ends its prompt.
        per_kv_token: Reading the KV of one token of context.
        per_pair: Prefill attention, per token of `BatchShape.attention_pairs`.
        stairs: How `batch_s` rises.
    """

    batch_s: tuple[float, ...]
    larger_batch_s: Callable[[int], float]
    fixed: float
    per_decode: float
    output_read: float
    output_row: float
    per_kv_token: float
    per_pair: float
    stairs: Stairs

    def batch_time_s(self, num_tokens: int) -> float:
        """Return the time of all that depends on the number of tokens alone, seconds."""
        return self.batch_s[num_tokens] if num_tokens <= TABLE_TOKENS else self.larger_batch_s(num_tokens)

    def decode_time_s(self, num_decodes: int, contexts: int) -> float:
        """Return what decodes and the KV that is read add, seconds."""
        output_s = self.output_row * (num_decodes + 1)
        if output_s < self.output_read:
            output_s = self.output_read
        return self.fixed + self.per_decode * num_decodes + output_s + self.per_kv_token * contexts


def step_costs(deployment: Deployment, kernels: Kernels, engine: Engine) -> StepCosts:
    """Return the costs of a deployment; tabulates the step sizes, in some ten milliseconds."""
    gpu, model, num_gpus = deployment.gpu, deployment.model, deployment.tensor_parallel
    batch_s = partial(_batch_s, deployment, kernels, engine)
    output_values = model.vocab_size * model.hidden_size / num_gpus
    # Scores and values: two products of two operations, per query head.
    attention = 4 * model.num_heads * model.head_size * model.num_layers / num_gpus
    return StepCosts(
        batch_s=tuple(map(batch_s, range(TABLE_TOKENS + 1))),
        larger_batch_s=batch_s,
        fixed=engine.fixed_s,
        per_decode=engine.per_decode_s,
        output_read=output_values * BYTES_PER_VALUE / gpu.bytes_per_s,
        output_row=output_values * 2 / gpu.flops,
        per_kv_token=model.kv_bytes_per_token / num_gpus / (gpu.bytes_per_s * engine.bandwidth_share),
        per_pair=attention / (gpu.flops * engine.flops_share),
        stairs=Stairs(kernels.tokens, [batch_s(tokens) for tokens in kernels.tokens]),
    )


def _batch_s(deployment: Deployment, kernels: Kernels, engine: Engine, num_tokens: int) -> float:
    layer_s = engine.linear_factor * kernels.layer_s(num_tokens)
    if kernels.all_reduce is not None:
        layer_s += 2 * kernels.all_reduce.duration_s(
            num_tokens * deployment.model.hidden_size * BYTES_PER_VALUE
        )
    fixed_s, per_token_s = kernels.embedding_s
    return deployment.model.num_layers * layer_s + fixed_s + per_token_s * num_tokens


@dataclass(frozen=True, slots=True)
class FittedProfile(ChunkSearch):
    """A deployment's step times; fixed, monotone in every term of the shape.

    Cost: `predict_s` about a microsecond, `largest_chunk` about five.

    Attributes:
        name: Device, model and parallelism, such as ``h100-80gb/llama-3-70b/tp4``.
        costs: What a step is composed of.
        margin: Share of the prediction to add for safety, >= 0; the artifact has 0.2.
    """

    name: str
    costs: StepCosts
    margin: float = 0.2

    def __post_init__(self) -> None:
        """Raise ValueError for a margin that is negative or not finite."""
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin: {self.margin!r} is not allowed; give a finite number >= 0")

    def predict_s(self, shape: BatchShape) -> float:
        """Return the sum of the step's parts, seconds, > 0."""
        num_prefills, num_decodes, decode_context, prefill_context, pairs = shape
        costs = self.costs
        decode_s = costs.decode_time_s(num_decodes, decode_context + prefill_context)
        return costs.batch_time_s(num_prefills + num_decodes) + (decode_s + costs.per_pair * pairs)

    def margin_s(self, predicted_s: float) -> float:
        """Return the fixed share of the prediction."""
        return self.margin * predicted_s

    def largest_chunk(self, shape: BatchShape, context: int, limit_s: float, max_tokens: int) -> int:
        """Return what `ChunkSearch.largest_chunk` does, without a shape per try.

        Cost: about log2(max_tokens) look-ups in a table.
        """
        num_prefills, num_decodes, decode_context, prefill_context, pairs = shape
        costs, margin = self.costs, self.margin
        batch_time_s, per_pair = costs.batch_time_s, costs.per_pair
        decode_s = costs.decode_time_s(num_decodes, decode_context + (prefill_context + context))
        num_before = num_prefills + num_decodes

        def safe_s(num_tokens: int) -> float:
            # The same operations in the same order as predict_s and margin_s: not a bit may differ.
            pairs_s = per_pair * (pairs + num_tokens * (context + num_tokens / 2))
            predicted_s = batch_time_s(num_before + num_tokens) + (decode_s + pairs_s)
            return predicted_s + margin * predicted_s

        if max_tokens <= 0 or safe_s(max_tokens) <= limit_s:
            return max(0, max_tokens)
        return bisect_right(range(max_tokens), limit_s, lo=1, key=safe_s) - 1

    def efficient_chunk(self, shape: BatchShape, context: int, num_tokens: int) -> int:
        """Return what `ChunkSearch.efficient_chunk` does; attention is bent too little to matter."""
        costs, num_before = self.costs, shape.num_prefill_tokens + shape.num_decode_tokens
        start_s = costs.batch_time_s(num_before)
        return costs.stairs.best_total(num_before, start_s, num_before + num_tokens) - num_before

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        """Ignore the step: a profile is fixed."""

    def stats(self) -> dict[str, object]:
        """Return what the model is, for state pages and logs."""
        return {"model": "profile", "name": self.name, "margin": self.margin}


FITTED = {
    f"{A100_LLAMA_3_8B.name}-fitted": A100_LLAMA_3_8B,
    A100_LLAMA_2_7B.name: A100_LLAMA_2_7B,
    H100_LLAMA_3_70B.name: H100_LLAMA_3_70B,
}
"""Deployments by profile name. Llama-3-8B's plain name is the artifact's own model."""


def data_name(deployment: Deployment) -> str:
    """Return the name of a deployment's table, without folder and ending."""
    return deployment.name.replace("/", "-")


def read_kernels(found: Mapping[str, Any]) -> Kernels:
    """Return the kernels of a table as it is stored, in microseconds."""
    reduction = found.get("all_reduce")
    fixed_us, per_token_us = found["embedding_us"]
    return Kernels(
        tuple(found["tokens"]),
        tuple(1e-6 * time_us for time_us in found["linear_us"]),
        (1e-6 * fixed_us, 1e-6 * per_token_us),
        reduction
        and AllReduce(
            1e-6 * reduction["floor_us"], 1e-6 * reduction["latency_us"], 1e9 * reduction["gb_per_s"]
        ),
    )


def _read(name: str) -> Mapping[str, Any]:
    text = files("niyama.latency").joinpath(f"data/{name}.json").read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)
    return found


@cache
def _costs(deployment: Deployment) -> StepCosts:
    engine = _read("engine")
    values = Engine(*(float(engine[name]) for name in Engine._fields))
    return step_costs(deployment, read_kernels(_read(data_name(deployment))), values)


def _maker(name: str, deployment: Deployment) -> Callable[[float], FittedProfile]:
    return lambda margin: FittedProfile(name, _costs(deployment), margin)


for _name, _deployment in FITTED.items():
    register_profile(_name, _maker(_name, _deployment))
    register_kv_tokens(_name, _deployment.num_kv_tokens)
