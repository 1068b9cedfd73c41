from __future__ import annotations

import json
import shlex
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from niyama.cli import main, serve
from niyama.emulation import Emulation
from niyama.latency import kv_tokens
from niyama.settings import Settings

QOS = "default: chat\nclasses:\n  chat: {ttft: 2s, tbt: 40ms}\n  nightly: {ttlt: 8h, importance: low}\n"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VLLM_PLUGINS", "VLLM_USE_RUST_FRONTEND", "VLLM_CPU_KVCACHE_SPACE", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NIYAMA_CACHE", str(tmp_path / "cache"))


def printed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], list[str]]:
    """Return the environment and the words for vLLM that `niyama serve` would use."""
    assert main(["serve", *argv, "--print-command"]) == 0
    captured = capsys.readouterr()
    words = shlex.split(captured.out)
    has_note = "the demo model is not there yet" in captured.err
    assert has_note == any("demo-model" in word for word in words)
    start = words.index("python")
    assert words[start : start + 3] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    return dict(word.split("=", 1) for word in words[:start]), words[start + 3 :]


def after(words: list[str], option: str) -> str:
    assert words.count(option) == 1, words
    return words[words.index(option) + 1]


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which `niyama serve` refuses."""
    assert main(["serve", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("niyama: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_serve_without_model_serves_the_demo_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env, words = printed([], capsys)
    assert after(words, "--model") == str(tmp_path / "cache" / "demo-model-v1")
    assert after(words, "--served-model-name") == "demo"
    assert after(words, "--dtype") == "float32"
    assert (after(words, "--host"), after(words, "--port")) == ("127.0.0.1", "8000")
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert not (tmp_path / "cache").exists(), "printing a command makes nothing"


def test_serve_demo_keeps_what_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    env, words = printed(["--max_num_seqs=8", "--dtype", "bfloat16"], capsys)
    assert "--max_num_seqs=8" in words
    assert "--max-num-seqs" not in words
    assert after(words, "--dtype") == "bfloat16"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "7"


def test_serve_model_passes_unknown_options_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = ["--max-model-len", "4096", "-tp", "2", "--lora-modules", "a=b", "c=d", "--middleware", "x.Y"]
    env, words = printed(["org/m", "--port", "9001", *theirs], capsys)
    assert words[:7] == ["org/m", "--model", "org/m", "--host", "127.0.0.1", "--port", "9001"]
    assert words[7 : 7 + len(theirs)] == theirs
    assert "HF_HUB_OFFLINE" not in env
    assert "--dtype" not in words


@pytest.mark.parametrize(
    "argv", [["org/m"], ["--model", "org/m"], ["--model=org/m"], ["--qos", "Q", "org/m"]]
)
def test_serve_finds_the_model_wherever_it_is_named(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qos = tmp_path / "qos.yaml"
    qos.write_text(QOS)
    _, words = printed([str(qos) if word == "Q" else word for word in argv], capsys)
    assert words[0] == after(words, "--model") == "org/m"


def test_serve_installs_scheduler_middleware_and_plugin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env, words = printed(["org/m"], capsys)
    assert after(words, "--scheduler-cls") == "niyama.engines.vllm.scheduler"
    assert after(words, "--middleware") == "niyama.server.middleware.QosMiddleware"
    assert "niyama" in env["VLLM_PLUGINS"].split(",")
    monkeypatch.setenv("VLLM_PLUGINS", "theirs")
    env, _ = printed(["org/m"], capsys)
    assert env["VLLM_PLUGINS"] == "niyama,theirs"


def test_serve_tells_scheduler_and_middleware_the_same_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qos, log = tmp_path / "qos.yaml", tmp_path / "steps.jsonl"
    qos.write_text(QOS)
    ours = ["--qos", str(qos), "--pacing", "paper", "--step-log", str(log), "--allow-untested-vllm"]
    env, words = printed(["org/m", *ours, "--additional-config", '{"mine": 1}'], capsys)
    assert json.loads(after(words, "--additional-config")) == {"mine": 1}
    settings = Settings.from_env(env)
    assert list(settings.book.classes) == ["chat", "nightly"]
    assert (settings.pacing, settings.step_log) == ("paper", str(log))
    assert settings.allow_untested_vllm


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--scheduler-cls", "a.B"], "--scheduler-cls"),
        (["--scheduler_cls=a.B"], "--scheduler-cls"),
        (["--policy", "guess"], "'guess' is unknown; allowed: "),
        (["--chunk", "0"], "--chunk: 0"),
        (["--chunk", "256"], "--chunk: niyama chooses its own; allowed: with --policy edf, fcfs, priority"),
        (["-asc", "4"], "--api-server-count: niyama serve starts one API server"),
        (["--headless"], "--headless: niyama serve starts one API server"),
        (["--data-parallel-hybrid-lb"], "--data-parallel-hybrid-lb: niyama serve starts one"),
        (["--qos", "missing.yaml"], "missing.yaml"),
        (["--step-log", "no/such/folder/log"], "there is no folder"),
        (["./missing"], "./missing does not exist"),
        (["a/b/c"], "a/b/c does not exist"),
        (["org/m", "--model", "org/n"], "--model"),
        (["--additional-config", '{"niyama": {}}'], "--additional-config"),
    ],
)
def test_serve_bad_input_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused([*argv, "--print-command"], capsys)


def test_serve_folder_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no config.json" in refused([str(tmp_path)], capsys)
    (tmp_path / "config.json").write_text("{}")
    assert after(printed([str(tmp_path)], capsys)[1], "--model") == str(tmp_path)


def test_serve_bad_qos_file_names_line_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qos = tmp_path / "qos.yaml"
    qos.write_text(QOS.replace("40ms", "fast"))
    line = refused(["--qos", str(qos)], capsys)
    assert "qos.yaml:3" in line
    assert "tbt" in line
    assert "fast" in line


def test_serve_rust_front_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    assert "VLLM_USE_RUST_FRONTEND" in refused(["org/m"], capsys)


def test_serve_class_blind_admission_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "org/m", "--max-num-queued-reqs", "9", "--print-command"]) == 0
    captured = capsys.readouterr()
    assert "--max-num-queued-reqs 9" in captured.out
    assert captured.err.startswith("niyama: warning: --max-num-queued-reqs ")


def test_serve_without_vllm_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(distribution: str) -> str:
        raise PackageNotFoundError(distribution)

    monkeypatch.setattr(serve, "version", missing)
    line = refused(["org/m"], capsys)
    assert "niyama[cuda]" in line
    assert "niyama[cpu]" in line


@pytest.mark.parametrize("unsupported", ["0.27.1", "0.34.0", "1.0.0", "dev"])
def test_serve_on_an_untested_vllm_is_refused(
    unsupported: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "version", lambda _: unsupported)
    assert f"vLLM {unsupported} is not supported; allowed: 0.28 to 0.33" in refused(["org/m"], capsys)


def test_serve_on_a_port_in_use_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "version", lambda _: "0.32.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused(["org/m", "--port", str(port)], capsys)


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_serve_on_an_impossible_port_is_refused(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "version", lambda _: "0.32.0")
    assert f"--port: {port}" in refused(["org/m", "--port", port], capsys)


@pytest.mark.parametrize(
    ("content", "argv", "host", "port"),
    [
        ("host: 0.0.0.0\nport: 9123\n", [], "0.0.0.0", "9123"),
        ("port: 9123\n", [], "127.0.0.1", "9123"),
        ("host: 0.0.0.0\nport: 9123\n", ["--host", "::1"], "::1", "9123"),
        ("host: 0.0.0.0\nport: 9123\n", ["--port=8000"], "0.0.0.0", "8000"),
        ("port:\n", [], "127.0.0.1", "8000"),
    ],
)
def test_serve_takes_the_address_of_the_config_file(
    content: str, argv: list[str], host: str, port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text(content)
    _, words = printed(["org/m", "--config", str(file), *argv], capsys)
    assert (after(words, "--host"), after(words, "--port")) == (host, port)


def test_serve_refuses_a_port_of_the_config_file_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("port: many\n")
    assert "--port: many is not a port; allowed: 1 to 65535" in refused(
        ["--config", str(file), "--print-command"], capsys
    )


def test_serve_takes_every_qos_file_that_check_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qos = tmp_path / "qos.yaml"
    tenants = "".join(f"  customer-{number:05}: {{weight: 2}}\n" for number in range(8000))
    qos.write_text(f"{QOS}tenants:\n{tenants}")
    assert main(["qos", "check", str(qos), "--json", str(tmp_path / "book.json")]) == 0
    capsys.readouterr()
    env, _ = printed(["org/m", "--qos", str(qos)], capsys)
    assert len(env["NIYAMA_SETTINGS"]) < 1000
    assert len(Settings.from_env(env).book.tenants) == 8000
    line = refused(["--qos", str(qos), "--emulate", A100, "--print-command"], capsys)
    assert "--qos: the classes and tenants take " in line
    assert "without --emulate" in line


A100 = "a100-80gb/llama-3-8b/tp1"


def test_serve_emulates_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "qos.yaml"
    file.write_text(QOS)
    env, words = printed(["--emulate", A100, "--speedup", "4", "--qos", str(file)], capsys)
    assert after(words, "--worker-cls") == "niyama.engines.vllm.emulated.EmulatedWorker"
    assert after(words, "--max-model-len") == "16384"
    assert after(words, "--block-size") == "16"
    assert words.count("--enforce-eager") == 1
    emulation = Emulation.from_environment({}, env)
    assert (emulation.profile, emulation.speedup, emulation.num_kv_tokens) == (A100, 4, kv_tokens(A100))
    chat = Settings.from_env(env).book.classes["chat"]
    assert (chat.slo.ttft_s, chat.slo.tbt_s) == (0.5, 0.01)


def test_serve_emulation_of_a_model_keeps_its_context(capsys: pytest.CaptureFixture[str]) -> None:
    env, words = printed(["org/m", "--emulate", A100, "--kv-tokens", "9000", "--block-size", "32"], capsys)
    assert "--max-model-len" not in words
    assert after(words, "--block-size") == "32"
    assert "VLLM_ALLOW_LONG_MAX_MODEL_LEN" not in env
    assert Emulation.from_environment({}, env).kv_tokens == 9000


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--emulate", "b200"], "--emulate: 'b200' is unknown; allowed: "),
        (["--emulate", A100, "--speedup", "0"], "--speedup: 0.0"),
        (["--emulate", A100, "--kv-tokens", "-1"], "--kv-tokens: -1"),
        (["--speedup", "2"], "--speedup: means nothing alone; allowed: with --emulate"),
        (["--emulate", A100, "--worker-cls", "x.Y"], "--worker-cls: cannot go with --emulate"),
        (["--emulate", A100, "--enable-lora"], "--enable-lora: cannot go with --emulate"),
        (["--emulate", A100, "--tensor-parallel-size", "2"], "--tensor-parallel-size: 2"),
        (["--emulate", A100, "-tp", "2"], "--tensor-parallel-size: 2"),
        (["--emulate", A100, "-pp=2"], "--pipeline-parallel-size: 2"),
        (["--emulate", A100, "-sc", "{}"], "--speculative-config: cannot go with --emulate"),
        (["--emulate", A100, "--speculative-config.method", "x"], "--speculative-config: cannot go"),
    ],
)
def test_serve_refuses_an_emulation_that_cannot_be(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused([*argv, "--print-command"], capsys)
