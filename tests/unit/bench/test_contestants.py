from __future__ import annotations

from pathlib import Path

import pytest

from niyama.bench.contestants import Contestant, Engine, check_policies
from niyama.emulation import Emulation

A100 = "a100-80gb/llama-3-8b/tp1"
QOS = Path("qos.yaml")


def words(engine: Engine, policy: str, chunk: int | None = None) -> list[str]:
    return engine.command(Contestant(policy, chunk), 9000, QOS, None)


def after(found: list[str], option: str) -> str:
    assert found.count(option) == 1, found
    return found[found.index(option) + 1]


def test_stock_is_vllm_without_us() -> None:
    found = words(Engine(model="org/m", options=["--seed", "3"]), "vllm-fcfs", 320)
    assert found[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "org/m"]
    assert after(found, "--max-num-batched-tokens") == "320"
    assert after(found, "--seed") == "3"
    assert "--scheduling-policy" not in found
    assert not any("niyama" in word for word in found[1:]), "Python's own path may say anything"


def test_stock_by_priority_says_so() -> None:
    found = words(Engine(model="org/m"), "vllm-priority", 512)
    assert after(found, "--scheduling-policy") == "priority"
    assert Contestant("vllm-priority", 512).carrier == "priority"


def test_ours_gets_its_policy_and_its_classes() -> None:
    found = words(Engine(model="org/m"), "edf")
    assert found[1:7] == ["-m", "niyama", "serve", "org/m", "--policy", "edf"]
    assert after(found, "--qos") == "qos.yaml"
    assert Contestant("edf").carrier == "xargs"


@pytest.mark.parametrize("policy", ["vllm-fcfs", "niyama"])
def test_an_emulated_device_is_the_same_for_all(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("niyama.demo_model.make", lambda: tmp_path)
    emulation = Emulation(A100, 4.0, kv_tokens=5000)
    engine = Engine(emulation=emulation)
    found = words(engine, policy, 256 if policy == "vllm-fcfs" else None)
    assert Emulation.from_environment({}, engine.environment()) == emulation
    assert found.count("--enforce-eager") == 1
    assert after(found, "--max-model-len") == "16384"
    assert after(found, "--block-size") == "16"
    assert after(found, "--distributed-executor-backend").endswith("UniProcExecutor")
    if policy == "niyama":
        assert (after(found, "--emulate"), after(found, "--speedup")) == (A100, "4.0")
        assert after(found, "--kv-tokens") == "5000"
        assert "--worker-cls" not in found, "our launcher brings its own and refuses another"
    else:
        assert after(found, "--worker-cls").startswith("niyama.engines.vllm.emulated")
    assert "EMULATED" in engine.description


def test_policies_are_checked_by_name() -> None:
    check_policies(["vllm-fcfs", "niyama", "srpf"])
    with pytest.raises(ValueError, match="--policies: empty; allowed: vllm-fcfs"):
        check_policies([])
    with pytest.raises(ValueError, match="--policies: 'vllm' is unknown; allowed: vllm-fcfs"):
        check_policies(["vllm"])
    with pytest.raises(ValueError, match="twice"):
        check_policies(["edf", "edf"])


@pytest.mark.parametrize("given", [["--block-size", "32"], ["--block_size=32"]])
def test_what_the_user_says_of_the_device_goes_to_all_alike(given: list[str]) -> None:
    engine = Engine(model="org/m", emulation=Emulation(A100, 4.0), options=given)
    for policy in ("vllm-fcfs", "vllm-priority", "niyama"):
        found = words(engine, policy, 256 if policy != "niyama" else None)
        assert [word for word in found if word.replace("_", "-").startswith("--block-size")] == given[:1]
        assert "16" not in found
        assert "--distributed-executor-backend" in found
