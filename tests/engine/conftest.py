from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.engine import rig as engine_rig
from tests.engine.adapter import RANK, make_adapter
from tests.engine.httpserver import Server, running_server
from tests.engine.rig import Rig, require_vllm

from niyama import demo_model
from niyama.cli import serve


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One real engine in this process; see `tests.engine.rig`."""
    require_vllm()
    yield engine_rig.start(tmp_path_factory.mktemp("rig"))
    engine_rig.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests over HTTP that need no options of their own."""
    require_vllm()
    root = tmp_path_factory.mktemp("servers")
    model = demo_model.make(root / demo_model.default_path().name)
    adapter = make_adapter(root / "adapter", model)
    folder = root / "main"
    folder.mkdir()
    lora = ["--enable-lora", "--max-lora-rank", str(RANK), "--lora-modules", f"tiny={adapter}"]
    # One slot more than adapters: on the CPU vLLM gives requests without an adapter the last slot's
    # (vllm/lora/ops/torch_ops/lora_ops.py, index -1), so that one has to stay empty.
    lora += ["--max-loras", "2"]
    with running_server(folder, *lora, "--enable-prompt-tokens-details", "--max-num-seqs", "16") as running:
        yield running


@pytest.fixture(scope="session")
def pressed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with an API key, n-gram speculation and KV for 2,048 tokens."""
    require_vllm()
    folder = tmp_path_factory.mktemp("servers") / "pressed"
    folder.mkdir()
    options = ["--api-key", "secret", "--num-gpu-blocks-override", "16", "--block-size", "128"]
    options += ["--max-model-len", "512"]
    # The sampler that 0.30 checks drafts with needs Triton, also on the CPU
    # (vllm/v1/sample/rejection_sampler.py): its engine dies, with its own scheduler too.
    if not (serve.vllm_version() or "").startswith("0.30."):
        drafts = {
            "method": "ngram",
            "num_speculative_tokens": 3,
            "prompt_lookup_max": 3,
            "prompt_lookup_min": 1,
        }
        options += ["--speculative-config", json.dumps(drafts)]
    with running_server(folder, *options, key="secret") as running:
        yield running
