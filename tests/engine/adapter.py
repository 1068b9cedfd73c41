"""A LoRA adapter for the demo model, small and random, but strong enough to change every answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

RANK = 8

_SCALE = 0.1
"""Makes the product as large as the model's own weights."""


def make_adapter(folder: Path, model: Path) -> Path:
    """Write an adapter in PEFT's format for the model in the folder `model`."""
    from safetensors.numpy import save_file

    config = json.loads((model / "config.json").read_text())
    width, draw = config["hidden_size"], np.random.default_rng(1)

    def normal(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return draw.standard_normal((rows, columns), dtype=np.float32) * np.float32(_SCALE)

    weights = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = normal(RANK, width)
        weights[f"{name}.lora_B.weight"] = normal(width, RANK)
        name = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        inner = config["intermediate_size"]
        weights[f"{name}.lora_A.weight"] = normal(RANK, inner)
        weights[f"{name}.lora_B.weight"] = normal(width, RANK)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj", "down_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(description))
    return folder
