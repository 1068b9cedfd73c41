from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from niyama.qos import paper_book
from niyama.qosfile import MAX_FILE_BYTES, load_book, parse_book
from niyama.settings import MAX_ENV_BYTES, SETTINGS_VARIABLE, Settings, SettingsError

BOOK_TEXT = "default: chat\nclasses: {chat: {ttft: 2s}}\n"


def test_settings_default_to_the_paper() -> None:
    assert Settings.from_mapping({}) == Settings()
    assert Settings().book == paper_book()
    assert (Settings().policy, Settings().pacing) == ("niyama", "strict")


def test_settings_round_trip_through_json() -> None:
    settings = Settings("edf", parse_book(BOOK_TEXT), "paper", "steps.jsonl", 256, True, True)
    assert Settings.from_mapping(json.loads(json.dumps(settings.to_mapping()))) == settings


def test_settings_take_the_book_from_a_file_or_inline(tmp_path: Path) -> None:
    file = tmp_path / "qos.yaml"
    file.write_text(BOOK_TEXT)
    inline = {"default": "chat", "classes": {"chat": {"ttft": "2s"}}}
    assert Settings.from_mapping({"qos": str(file)}) == Settings.from_mapping({"qos": inline})
    assert Settings.from_mapping({"qos": inline}).book == parse_book(BOOK_TEXT)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ([], "settings: a list is not a mapping; allowed: policy, qos, pacing"),
        (None, "settings: None is not a mapping"),
        ({"polcy": "niyama"}, "settings: unknown key 'polcy'; allowed: policy, qos"),
        ({"policy": ""}, "policy: '' is not a usable text"),
        ({"policy": 3}, "policy: 3 is not a usable text; allowed: the name of a policy"),
        ({"policy": None}, "policy: None is not a usable text"),
        ({"pacing": "loose"}, "pacing: 'loose' is not a pacing; allowed: strict, paper"),
        ({"pacing": ["strict"]}, "pacing: a list is not a pacing"),
        ({"step_log": 1}, "step_log: 1 is not a usable text; allowed: the path of a file, or null"),
        ({"chunk": 0}, "chunk: 0 is not a chunk; allowed: a whole number of tokens >= 1, or null"),
        ({"chunk": True}, "chunk: True is not a chunk"),
        ({"chunk": 2.5}, "chunk: 2.5 is not a chunk"),
        ({"allow_untested_vllm": 1}, "allow_untested_vllm: 1 is not a truth value; allowed: true, false"),
        ({"check_laws": "yes"}, "check_laws: 'yes' is not a truth value; allowed: true, false"),
        ({"qos": 3}, "qos: 3 is not a mapping of names"),
        ({"qos": "no-such-file.yaml"}, "qos: no-such-file.yaml: cannot read the QoS file: No such file"),
        ({"qos": {"default": "a", "classes": {"b": {"ttft": "1s"}}}}, "qos: default: 'a' is not a class"),
    ],
)
def test_settings_with_an_error_give_one_line(mapping: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(mapping)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", [None, "", "  "])
def test_environment_without_settings_gives_the_defaults(text: str | None) -> None:
    assert Settings.from_env({} if text is None else {"NIYAMA_SETTINGS": text}) == Settings()


def test_environment_with_settings_gives_those() -> None:
    settings = Settings(policy="fcfs", chunk=64)
    assert Settings.from_env({"NIYAMA_SETTINGS": json.dumps(settings.to_mapping())}) == settings


def large_qos_file(folder: Path) -> Path:
    """Write a QoS file of the largest size there may be, of tenants, and return its path."""
    tenants = "".join(f"  customer-{number:05}: {{weight: 2}}\n" for number in range(8000))
    file = folder / "qos.yaml"
    file.write_text(f"default: a\nclasses: {{a: {{ttft: 1s}}}}\ntenants:\n{tenants}")
    assert MAX_FILE_BYTES * 0.9 < file.stat().st_size <= MAX_FILE_BYTES
    return file


def test_settings_with_a_large_book_cross_to_another_process_by_its_file(tmp_path: Path) -> None:
    file = large_qos_file(tmp_path)
    settings = Settings(policy="edf", book=load_book(file))
    env = {SETTINGS_VARIABLE: settings.to_env(str(file))}
    subprocess.run(["/usr/bin/env"], env=env, check=True, stdout=subprocess.DEVNULL)
    assert Settings.from_env(env) == settings
    text = Settings(step_log="x" * (MAX_ENV_BYTES - len(Settings(step_log="").to_env()))).to_env()
    assert len(text) == MAX_ENV_BYTES
    env = {SETTINGS_VARIABLE: text}
    subprocess.run(["/usr/bin/env"], env=env, check=True, stdout=subprocess.DEVNULL)
    if sys.platform == "linux":
        with pytest.raises(OSError, match="too long"):
            subprocess.run(["/usr/bin/env"], env={SETTINGS_VARIABLE: f"{text}x"}, check=True)


@pytest.mark.parametrize("name", [None, "/dev/null", "missing"])
def test_settings_too_large_for_the_environment_are_refused_in_one_line(
    tmp_path: Path, name: str | None
) -> None:
    settings = Settings(book=load_book(large_qos_file(tmp_path)))
    with pytest.raises(
        SettingsError, match=rf"^qos: .* bytes as JSON; allowed: {MAX_ENV_BYTES}, or more"
    ) as caught:
        settings.to_env(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "[" * 100_000, "1" * 5000])
def test_environment_with_no_object_gives_one_line(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"NIYAMA_SETTINGS": text})
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400
