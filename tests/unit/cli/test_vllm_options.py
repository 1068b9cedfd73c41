from __future__ import annotations

from pathlib import Path

import pytest

from niyama.cli import UsageError
from niyama.cli.vllm_options import VllmOptions, _name, split_model


@pytest.mark.parametrize(
    ("words", "model", "rest"),
    [
        ([], None, []),
        (["org/m"], "org/m", []),
        (["org/m", "--max-num-seqs", "4"], "org/m", ["--max-num-seqs", "4"]),
        (["--max-num-seqs", "4"], None, ["--max-num-seqs", "4"]),
        (["-tp", "2"], None, ["-tp", "2"]),
    ],
)
def test_split_model_takes_only_a_leading_word(words: list[str], model: str | None, rest: list[str]) -> None:
    assert split_model(words) == (model, rest)


@pytest.mark.parametrize(
    "words",
    [["--max-num-seqs", "4"], ["--max_num_seqs", "4"], ["--max-num-seqs=4"], ["--max_num_seqs=4"]],
)
def test_options_in_any_spelling_are_found(words: list[str]) -> None:
    options = VllmOptions(words)
    assert "--max-num-seqs" in options
    assert options.get("--max-num-seqs") == "4"
    options.add_default("--max-num-seqs", "256")
    assert options.words == words


def test_short_forms_are_found() -> None:
    options = VllmOptions(["-tp", "2", "-dp=3", "-cc.mode", "3", "-x", "-1"])
    assert (options.get("--tensor-parallel-size"), options.get("--data-parallel-size")) == ("2", "3")
    assert options.mentions("--compilation-config")
    assert "--compilation-config" not in options
    assert options.starting_with("--") == [
        "--tensor-parallel-size",
        "--data-parallel-size",
        "--compilation-config.mode",
    ]


@pytest.mark.engine
def test_short_forms_are_those_of_vllm() -> None:
    arg_utils = pytest.importorskip("vllm.engine.arg_utils")
    flexible = pytest.importorskip("vllm.utils.argparse_utils").FlexibleArgumentParser
    for action in arg_utils.AsyncEngineArgs.add_cli_args(flexible())._actions:
        long = next((name for name in action.option_strings if name.startswith("--")), None)
        for short in action.option_strings:
            if not short.startswith("--") and short != "-h":
                assert _name(short) == long


def test_options_given_twice_the_last_wins() -> None:
    assert VllmOptions(["--dtype", "half", "--dtype=float32"]).get("--dtype") == "float32"


def test_option_that_is_another_ones_value_start_is_not_confused() -> None:
    options = VllmOptions(["--max-model-len", "4096", "--max-model-len-extra=1"])
    assert options.get("--max-model-len") == "4096"
    assert "--max-model" not in options
    assert "4096" not in options


def test_add_default_without_the_option_adds_it() -> None:
    options = VllmOptions(["--dtype", "half"])
    options.add_default("--enforce-eager")
    options.add_default("--max-num-seqs", "256")
    assert options.words == ["--dtype", "half", "--enforce-eager", "--max-num-seqs", "256"]


def test_config_file_counts_below_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("model: org/m\nserved_model_name: [one, two]\nmax-num-seqs: 3\n")
    options = VllmOptions(["--config", str(file), "--max-num-seqs", "4"])
    assert options.get("--model") == "org/m"
    assert options.get("--served-model-name") == "one"
    assert options.get("--max-num-seqs") == "4"


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", None])
def test_config_file_that_cannot_be_used_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "vllm.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=r"--config .*vllm\.yaml"):
        VllmOptions(["--config", str(file)])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--additional-config", '{"mine": [1]}', "--dtype", "half"],
        ["--additional-config", "{"],
        ["--additional-config.mine", "1"],
    ],
)
def test_additional_config_without_our_key_is_left_to_vllm(words: list[str]) -> None:
    options = VllmOptions(words)
    options.refuse_second_settings()
    assert options.words == words


@pytest.mark.parametrize(
    "words",
    [
        ["--additional-config", '{"niyama": {}}'],
        ['--additional_config={"niyama": {}}'],
        ["--additional-config.niyama.policy", "edf"],
    ],
)
def test_additional_config_with_our_key_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="key 'niyama'"):
        VllmOptions(words).refuse_second_settings()
