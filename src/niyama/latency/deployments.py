"""What a profile stands for: a model on some GPUs, and how much KV cache that leaves.

The figures are those of data sheets and model cards; nothing here is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from niyama.latency.profilefile import load_calibration
from niyama.latency.profiles import is_profile_file, profile_names

BYTES_PER_VALUE = 2
"""16-bit weights, activations and KV, as in the paper."""

MEMORY_SHARE = 0.9
"""Share of a GPU's memory that an engine uses: vLLM's `--gpu-memory-utilization` was 0.9 for years."""

KV_STEP_TOKENS = 5_000
"""KV capacities are rounded down to a multiple: what activations and graphs take is not in the formula."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, from its data sheet.

    Attributes:
        name: As in profile names.
        flops: Dense 16-bit tensor operations per second, without sparsity.
        bytes_per_s: Memory bandwidth.
        memory_bytes: Memory.
    """

    name: str
    flops: float
    bytes_per_s: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Model:
    """A transformer, from its model card and configuration.

    Attributes:
        name: As in profile names.
        num_params: Parameters.
        num_layers: Transformer layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_size: Values per head.
        hidden_size: Values per token between layers.
        vocab_size: Rows of the output layer.
    """

    name: str
    num_params: float
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    hidden_size: int
    vocab_size: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers, bytes, over all GPUs."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_size * BYTES_PER_VALUE


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on GPUs of one kind.

    Attributes:
        tensor_parallel: GPUs that share each layer.
    """

    gpu: Gpu
    model: Model
    tensor_parallel: int

    @property
    def name(self) -> str:
        """Device, model and parallelism, as in profile names."""
        return f"{self.gpu.name}/{self.model.name}/tp{self.tensor_parallel}"

    @property
    def num_kv_tokens(self) -> int:
        """Tokens of KV cache that the weights leave of `MEMORY_SHARE` of all memory, rounded down."""
        memory = MEMORY_SHARE * self.gpu.memory_bytes * self.tensor_parallel
        left = memory - self.model.num_params * BYTES_PER_VALUE
        return int(left / self.model.kv_bytes_per_token) // KV_STEP_TOKENS * KV_STEP_TOKENS


A100 = Gpu("a100-80gb", flops=312e12, bytes_per_s=2.039e12, memory_bytes=80e9)
"""NVIDIA A100 80GB SXM."""
H100 = Gpu("h100-80gb", flops=989.4e12, bytes_per_s=3.35e12, memory_bytes=80e9)
"""NVIDIA H100 SXM."""

LLAMA_3_8B = Model("llama-3-8b", 8.03e9, 32, 32, 8, 128, 4096, 128_256)
LLAMA_2_7B = Model("llama-2-7b", 6.74e9, 32, 32, 32, 128, 4096, 32_000)
LLAMA_3_70B = Model("llama-3-70b", 70.55e9, 80, 64, 8, 128, 8192, 128_256)

A100_LLAMA_3_8B = Deployment(A100, LLAMA_3_8B, 1)
A100_LLAMA_2_7B = Deployment(A100, LLAMA_2_7B, 2)
"""Stands for the paper's Qwen-7B, which has multi-head attention as well."""
H100_LLAMA_3_70B = Deployment(H100, LLAMA_3_70B, 4)

_KV_TOKENS = {A100_LLAMA_3_8B.name: A100_LLAMA_3_8B.num_kv_tokens}


def register_kv_tokens(profile: str, num_tokens: int) -> None:
    """Say how many tokens of KV cache a replica of a profile has.

    Raises:
        ValueError: The profile has a number already, or the number is below 1.
    """
    if profile in _KV_TOKENS:
        raise ValueError(f"kv_tokens: profile {profile!r} has {_KV_TOKENS[profile]} already")
    if num_tokens < 1:
        raise ValueError(f"kv_tokens: {num_tokens!r} is not allowed; give a whole number >= 1")
    _KV_TOKENS[profile] = num_tokens


def server_limits(profile: str) -> dict[str, int]:
    """Return what the server of a profile file could hold, as far as it says; nothing of other profiles.

    The keys are `num_kv_tokens`, `max_num_seqs` and `max_num_batched_tokens`.

    Raises:
        ValueError: The file is no profile.
    """
    if not is_profile_file(profile):
        return {}
    engine = load_calibration(profile).engine
    found = {name: engine.get(name) for name in ("num_kv_tokens", "max_num_seqs", "max_num_batched_tokens")}
    return {name: value for name, value in found.items() if isinstance(value, int) and value > 0}


def kv_tokens(profile: str) -> int:
    """Return how many tokens of KV cache a replica of a profile has; of a profile file, its server's.

    Raises:
        ValueError: There is no such profile, or nothing is known of its memory.
    """
    if is_profile_file(profile):
        recorded = server_limits(profile).get("num_kv_tokens")
        if recorded is not None:
            return recorded
    elif profile not in profile_names():
        raise ValueError(f"profile: {profile!r} is unknown; known: {', '.join(profile_names())}")
    if profile not in _KV_TOKENS:
        raise ValueError(f"kv_tokens: not known for profile {profile!r}; give a whole number >= 1")
    return _KV_TOKENS[profile]
