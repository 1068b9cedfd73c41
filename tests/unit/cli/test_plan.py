from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from niyama.cli import main
from niyama.cli.saved_plan import differences

SMALL = "plan --qps 6 --hours 0.03 --policies fcfs,niyama --sample 1 --seed 3"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "new" / "folder"
    assert main([*SMALL.split(), "--out", str(folder)]) == 0
    return folder / "plan.json"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_plan_has_the_promised_fields(saved: Path) -> None:
    plan = read(saved)
    silo, shared = plan["silo"], plan["shared"]
    assert silo["by_class"].keys() == {"interactive", "batch+background"}
    assert silo["replicas"] == sum(silo["by_class"].values()) == silo["gpus"]
    assert shared == plan["policies"]["niyama"]
    assert list(plan["policies"]) == ["fcfs", "niyama"]
    assert plan["saving"] == (silo["replicas"] - shared["replicas"]) / silo["replicas"]
    assert plan["saving_gpus"] == silo["gpus"] - shared["gpus"]
    assert plan["criterion"] == "strict"
    assert plan["probes"]


def test_plan_of_a_short_run_says_what_it_cannot_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "plan.json"
    words = f"plan --qps 35 --requests 70 --policies edf --policy edf --sample 1 --json {target}"
    assert main(words.split()) == 0
    plan = read(target)
    size, *_, note = plan["notes"]
    keeps_up = "would without any deadlines; the run is too short to show it"
    assert size == f"edf: {plan['shared']['replicas']} replicas do not keep up, 8 {keeps_up}"
    assert note.startswith("requests arrived for 2 s, the longest promise is 1800 s; an overloaded server ")
    text = capsys.readouterr().out
    assert f"\n\nnote: {size}\n" in text
    assert text.endswith(f"\nnote: {note}\n")
    assert "425,000 tokens of KV and 256 running requests; a step has at most 8,192 tokens" in text


def test_saved_plan_of_an_older_version_has_no_limits_and_no_notes_to_compare(saved: Path) -> None:
    plan = read(saved)
    again = {**plan, "notes": ["other"]}
    del plan["limits"]
    assert differences(plan, again) == []
    assert differences({**plan, "limits": {}}, again) == ["limits"]


def test_plan_is_drawn(saved: Path) -> None:
    assert (saved.parent / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_saved_plan_gives_the_same_again(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.json"
    assert main(["plan", "--from", str(saved), "--json", str(again)]) == 0
    assert "the same result as the saved plan" in capsys.readouterr().out
    old, new = read(saved), read(again)
    assert new.pop("differs") == []
    old.pop("wall_s"), new.pop("wall_s")
    assert new == old


def test_saved_plan_that_gives_something_else_is_told(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read(saved)
    plan["shared"]["replicas"] += 1
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(plan))
    assert main(["plan", "--from", str(changed)]) == 1
    assert "NOT the saved result: shared changed" in capsys.readouterr().out


def test_saved_plan_notices_another_trace(tmp_path: Path) -> None:
    trace, target = tmp_path / "t.csv", tmp_path / "plan.json"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n900,5\n")
    words = f"plan --trace {trace} --qps 1 --requests 30 --policies edf --policy edf --json {target}"
    assert main(words.split()) == 0
    trace.write_text("num_prefill_tokens,num_decode_tokens\n901,5\n")
    again = tmp_path / "again.json"
    assert main(["plan", "--from", str(target), "--json", str(again)]) == 1
    assert read(again)["differs"] == ["files"]


@pytest.mark.parametrize("arrivals", ["poisson", "recorded"])
def test_plan_has_no_silo_for_a_class_without_requests(arrivals: str, tmp_path: Path) -> None:
    trace, target = tmp_path / "t.csv", tmp_path / "plan.json"
    rows = [f"{n},900,5,batch" for n in range(30)]
    if arrivals == "recorded":
        rows.append("30,900,5,interactive")  # beyond those that are taken
    trace.write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens,class", *rows, ""]))
    words = f"plan --trace {trace} --arrivals {arrivals} --qps 1 --requests 30 --policies fcfs --policy fcfs"
    assert main([*words.split(), "--json", str(target)]) == 0
    plan = read(target)
    assert plan["silo"]["by_class"] == {"batch": 1}
    assert plan["saving"] == 0


def test_silo_can_choose_its_chunk_and_have_one_class(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    words = (
        "plan --qps 6 --hours 0.02 --policies edf --policy edf --chunks 32,512 --sample 1 --jobs 2 "
        "--silo-per-class --batch-chunks 32,1024 --silo-policy edf --json"
    )
    assert main([*words.split(), str(target)]) == 0
    plan = read(target)
    assert list(plan["silo"]["by_class"]) == ["interactive", "batch", "background"]
    assert list(plan["policies"]) == ["edf", "edf@best"]
    assert [silo["policy"] for silo in plan["silo"]["silos"]] == ["edf"] * 3
    tried = {probe["chunk"] for probe in plan["probes"] if probe["fleet"] == "silo batch"}
    assert tried == {32, 1024}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--qps: none is given"),
        ("--qps 0", "--qps: 0 is not a rate"),
        ("--qps 1 --sample -1", "--sample: -1 is not allowed"),
        ("--qps 1 --max-late 2", "--max-late: 2 is no share"),
        ("--qps 1 --policy best", "policy: 'best' is unknown"),
        ("--qps 1 --silo-policy best", "policy: 'best' is unknown"),
        ("--qps 1 --batch-chunks x", "--batch-chunks: 'x' is no chunk"),
        ("--qps 1 --hours 1 --requests 9", "--requests and --hours: both are given; allowed: one of them"),
        ("--qps 1 --jobs no", "--jobs: 'no' is not allowed"),
        ("--from none.json", "--from none.json: cannot read"),
    ],
)
def test_plan_command_refuses_bad_input_in_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--picture {}/no/x.png", "--picture: {}/no/x.png cannot be written: there is no folder {}/no"),
        ("--out {}/file", "--out: {}/file cannot be made: {}/file is not a folder"),
        ("--out {}/file/new", "--out: {}/file/new cannot be made: {}/file is not a folder"),
        ("--out {}", "--out: {}/plan.png cannot be written: it is a folder"),
    ],
)
def test_plan_that_could_not_be_written_is_refused_before_the_run(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "plan.png").mkdir()
    # A plan of this length does not end while anybody waits.
    command = f"plan --qps 30 --hours 8000 {words.format(tmp_path)}"
    assert main(command.split()) == 2
    assert message.replace("{}", str(tmp_path)) in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--qps 99", "--seed 0", "--silo-per-class", "--trace=sharegpt --qps 1"])
def test_option_beside_a_saved_plan_that_has_it_is_refused(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    assert main(["plan", "--from", str(path), *words.split()]) == 2
    options = ", ".join(word.split("=")[0] for word in words.split() if word.startswith("--"))
    wanted = f"niyama: error: --from {path}: the file has every input; leave out {options}\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no inputs in it"),
        ('{"inputs": {"--qps": "fast"}}', "argument --qps: invalid float value: 'fast'"),
        ('{"inputs": {"--bogus": 1}}', "unrecognized arguments: --bogus=1"),
        ('{"inputs": {"--qps": [1]}}', "--qps: a list is no option's value"),
    ],
)
def test_bad_saved_plan_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    assert main(["plan", "--from", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
