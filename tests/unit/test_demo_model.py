from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from niyama import demo_model

MESSAGES = [{"role": "user", "content": "Tell me a story about Zürich."}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("safetensors")
    pytest.importorskip("tokenizers")
    return demo_model.make(tmp_path_factory.mktemp("cache") / "demo")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_make_twice_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again = demo_model.make(tmp_path / "other" / "demo")
    assert digests(again) == digests(made)


def test_make_leaves_nothing_but_the_model_behind(made: Path) -> None:
    assert [path.name for path in made.parent.iterdir()] == ["demo"]


def test_make_reuses_a_complete_folder(made: Path) -> None:
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert demo_model.make(made) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before


def test_make_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(demo_model.DemoModelError, match="is not the demo model"):
        demo_model.make(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_make_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(demo_model.DemoModelError, match="cannot write the demo model to"):
        demo_model.make(tmp_path / "file" / "demo")


def test_default_path_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIYAMA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert demo_model.default_path() == Path("/xdg/niyama/demo-model-v1")
    monkeypatch.setenv("NIYAMA_CACHE", "/ours")
    assert demo_model.default_path() == Path("/ours/demo-model-v1")


def test_tokenizer_round_trips_any_text(made: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(made / "tokenizer.json"))
    text = "Hello there, 世界 — naïve\n\tdeadlines?"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode(" please tell me about the server").ids) == 6
    assert tokenizer.get_vocab_size() == json.loads((made / "config.json").read_text())["vocab_size"]


@pytest.mark.engine
def test_transformers_loads_every_weight_and_generates_words(made: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, report = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    assert model.config.max_position_embeddings >= 8192

    tokenizer = AutoTokenizer.from_pretrained(made)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|bos|><|turn|>user\nTell me a story about Zürich.<|eos|>\n<|turn|>assistant\n"
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    output = model.generate(ids, max_new_tokens=200, do_sample=False)[0, ids.shape[1] :]
    assert len(output) == 200, "the model ended its turn by itself"
    assert len(set(output.tolist())) > 1
    assert tokenizer.decode(output).replace(" ", "").isalpha()
