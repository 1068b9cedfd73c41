"""The demo model: a tiny Llama with random weights and its own tokenizer, made locally.

It lets a fresh machine serve real requests through real vLLM without a download. It talks
nonsense, but a step of it costs what a step of a real model costs in kind: prefill grows with
the chunk, decode with the batch and the context. Needs `safetensors` and `tokenizers`, which
come with vLLM; making it takes under a second and 25 MB of disk.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAME = "demo"
_VERSION = 1  # of the files below: a change of them is a new folder in the cache
_SEED = 20_250_703

_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _INTERMEDIATE = 256, 4, 8, 4, 1024
_MAX_POSITIONS = 8192
_VOCABULARY = 2048

_BOS, _EOS, _TURN = "<|bos|>", "<|eos|>", "<|turn|>"
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    + _TURN
    + "{{ message['role'] }}\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    + "{% if add_generation_prompt %}"
    + _TURN
    + "assistant\n{% endif %}"
)

# The tokenizer learns to spell these with few tokens; any other text falls back to bytes.
_STEMS = (
    "the and you that was for are with his they this have from one had word but not what all were we "
    "when your can said there use each which she how their will other about out many then them these so "
    "some her would make like him into time has look two more write go see number no way could people my "
    "than first water been call who oil its now find long down day did get come made may part over new "
    "sound take only little work know place year live me back give most very after thing our just name "
    "good sentence man think say great where help through much before line right too mean old any same "
    "tell boy follow came want show also around form three small set put end does another well large must "
    "big even such because turn here why ask went read need land different home us move try kind hand "
    "picture again change off play spell air away animal house point page letter mother answer found study "
    "still learn should world request token model server latency promise deadline step batch class story "
    "summary question code function value list user system assistant please hello thank write explain"
)
_ENDINGS = ("", "s", "ed", "ing", "er", "ly")


class DemoModelError(RuntimeError):
    """The demo model cannot be made; the message is one line and says why."""


def default_path() -> Path:
    """Return where the demo model is kept: under NIYAMA_CACHE, or the user's cache folder."""
    cache = os.environ.get("NIYAMA_CACHE")
    if cache:
        root = Path(cache)
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "niyama"
    return root / f"demo-model-v{_VERSION}"


def make(path: Path | None = None) -> Path:
    """Make the demo model in the folder `path`, or reuse it if it is there.

    The folder appears complete or not at all, so two processes may make it at once.

    Args:
        path: The folder; `default_path()` if None.

    Returns:
        The folder, as vLLM's and transformers' model argument.

    Raises:
        DemoModelError: `safetensors` or `tokenizers` is missing, or the folder cannot be written.
    """
    path = path or default_path()
    if is_complete(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise DemoModelError(f"cannot write the demo model to {path}: {error.strerror}") from error
    try:
        _write(scratch)
        scratch.chmod(0o755)
        _publish(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def is_complete(path: Path) -> bool:
    """Return whether the demo model is in the folder `path`."""
    return all((path / name).is_file() for name in ("config.json", "tokenizer.json", "model.safetensors"))


def _publish(scratch: Path, path: Path) -> None:
    if path.exists() and not is_complete(path):
        if any(path.iterdir()):
            raise DemoModelError(f"{path} is not the demo model; remove it or choose another folder")
        path.rmdir()
    try:
        scratch.rename(path)
    except OSError as error:
        if not is_complete(path):  # otherwise another process was faster
            raise DemoModelError(f"cannot write the demo model to {path}: {error.strerror}") from error


def _write(folder: Path) -> None:
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise DemoModelError("the demo model needs the package safetensors, which comes with vLLM") from error
    tokenizer = _train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    _write_json(folder / "config.json", _model_config(vocabulary))
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": vocabulary[_BOS], "eos_token_id": vocabulary[_EOS]},
    )
    save_file(_weights(vocabulary), folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _train_tokenizer() -> Any:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise DemoModelError("the demo model needs the package tokenizers, which comes with vLLM") from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_BOS, _EOS, _TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _corpus() -> Iterator[str]:
    """Every stem with every ending, the plain ones most often, as words inside a sentence."""
    for stem, (ending, times) in product(_STEMS.split(), zip(_ENDINGS, (8, 4, 3, 3, 2, 2), strict=True)):
        yield f" {stem}{ending}" * times
        yield f"{stem}{ending}" if not ending else f" {stem.capitalize()}{ending}."


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _BOS,
        "eos_token": _EOS,
        "additional_special_tokens": [_TURN],
        "chat_template": _CHAT_TEMPLATE,
        "model_max_length": _MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
    }


def _model_config(vocabulary: Mapping[str, int]) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": len(vocabulary),
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": _MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": vocabulary[_BOS],
        "eos_token_id": vocabulary[_EOS],
    }


def _weights(vocabulary: Mapping[str, int]) -> dict[str, npt.NDArray[np.float32]]:
    random = np.random.default_rng(_SEED)

    def normal(rows: int, columns: int, scale: float = 0.02) -> npt.NDArray[np.float32]:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)

    kv_width = _HIDDEN // _HEADS * _KV_HEADS
    ones = np.ones(_HIDDEN, dtype=np.float32)
    weights = {"model.embed_tokens.weight": normal(len(vocabulary), _HIDDEN), "model.norm.weight": ones}
    for layer in range(_LAYERS):
        weights |= {
            f"model.layers.{layer}.{name}": weight
            for name, weight in (
                ("input_layernorm.weight", ones.copy()),
                ("self_attn.q_proj.weight", normal(_HIDDEN, _HIDDEN)),
                ("self_attn.k_proj.weight", normal(kv_width, _HIDDEN)),
                ("self_attn.v_proj.weight", normal(kv_width, _HIDDEN)),
                ("self_attn.o_proj.weight", normal(_HIDDEN, _HIDDEN)),
                ("post_attention_layernorm.weight", ones.copy()),
                ("mlp.gate_proj.weight", normal(_INTERMEDIATE, _HIDDEN)),
                ("mlp.up_proj.weight", normal(_INTERMEDIATE, _HIDDEN)),
                ("mlp.down_proj.weight", normal(_HIDDEN, _INTERMEDIATE)),
            )
        }
    # Wide logits: the likeliest token leads clearly, so rounding does not decide greedy outputs.
    # Ends of turn and lone bytes score zero, far below: answers are words, as long as asked for.
    lm_head = normal(len(vocabulary), _HIDDEN, scale=0.2)
    lm_head[[index for token, index in vocabulary.items() if not _is_word(token)]] = 0.0
    weights["lm_head.weight"] = lm_head
    return weights


def _is_word(token: str) -> bool:
    letters = token.removeprefix("Ġ")  # how byte-level BPE writes a leading space
    return letters.isascii() and letters.isalpha()
