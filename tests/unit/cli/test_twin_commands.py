from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.bench.recorded import LIMITS, arrivals, record, save, start

from niyama.cli import main
from niyama.emulation import Emulation, EmulationError
from niyama.sim.live import ReplicaLimits

LIMITS_OF_LAST = ReplicaLimits(num_kv_tokens=30_000, max_num_seqs=32, max_num_batched_tokens=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(record(arrivals(250, 5.0)), tmp_path_factory.mktemp("runs") / "run")


def test_a_run_is_calibrated_and_replayed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile, report, errors = tmp_path / "p.json", tmp_path / "r.json", tmp_path / "e.json"
    assert main(["calibrate", str(folder), "--out", str(profile), "--json", str(errors)]) == 0
    assert json.loads(errors.read_text())["errors"]["decode only"]["mean_abs_error_share"] < 0.05
    assert "HELD-OUT STEPS OF" in capsys.readouterr().out
    words = ["--profile", str(profile), "--repeats", "1", "--json", str(report)]
    assert main(["replay", str(folder), *words, "--png", str(tmp_path / "r.png")]) == 0
    assert "MEASURED" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert abs(found["error"]["ttlt_s"]["all"]["p50"]) < 0.02
    assert found["parity"]["plans_different"] == 0
    assert found["own_speed"] is None
    assert main(["replay", str(folder), *words, "--own-speed"]) == 0
    assert json.loads(report.read_text())["own_speed"]["slowest"] == pytest.approx(1.0, abs=0.05)
    assert set(found["measured"]) == set(found["simulated"]) == set(found["error"])
    assert set(found["measured"]["ttft_s"]) == {"all", "batch", "chat"}
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_file_serves_the_simulator(folder: Path, tmp_path: Path) -> None:
    profile, result = tmp_path / "p.json", tmp_path / "s.json"
    assert main(["calibrate", str(folder / "decisions.jsonl"), "--out", str(profile)]) == 0
    words = f"simulate --profile {profile} --qps 1 --requests 20 --trace azure-conv --json {result}"
    assert main(words.split()) == 0
    assert json.loads(result.read_text())["requests"] == 20


def test_a_profile_file_is_emulated(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "p.json"
    assert main(["calibrate", str(folder / "decisions.jsonl"), "--out", str(profile)]) == 0
    num_kv_tokens = json.loads(profile.read_text())["engine"]["num_kv_tokens"]
    emulation = Emulation(str(profile), speedup=2)
    assert Emulation.from_environment({}, {"NIYAMA_EMULATION": emulation.to_json()}) == emulation
    assert emulation.num_kv_tokens == num_kv_tokens
    capsys.readouterr()
    assert main(["serve", "--emulate", str(profile), "--print-command"]) == 0
    assert str(profile) in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "{}", '{"format": "niyama-profile", "version": 1}'])
def test_a_file_that_is_no_profile_is_not_emulated(text: str | None, tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    if text is not None:
        profile.write_text(text)
    with pytest.raises(EmulationError, match=r"profile: \S*p\.json") as caught:
        Emulation(str(profile))
    assert "\n" not in str(caught.value)


def test_step_logs_alone_give_step_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, profile = tmp_path / "steps.jsonl", tmp_path / "p.json"
    line = '{{"duration_s": {}, "num_prefill_tokens": {}, "num_decode_tokens": 4, "decode_context": 9, '
    line += '"prefill_context": 0, "attention_pairs": 0, "is_clean": {}}}\n'
    steps = [line.format(0.01 + 1e-4 * n, n, "true") for n in range(0, 400, 5)]
    log.write_text("".join([*steps, line.format(9.0, 1, "false")]))
    assert main(["calibrate", str(log), "--out", str(profile), "--name", "flat"]) == 0
    saved = json.loads(profile.read_text())
    assert (saved["name"], saved["overheads"]) == ("flat", None)
    assert saved["errors"]["all"]["mean_abs_error_share"] < 0.01
    assert "DELAY" not in capsys.readouterr().out


def test_a_step_log_may_end_torn_and_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, line = (
        tmp_path / "steps.jsonl",
        '{{"duration_s": {}, "num_prefill_tokens": 0, "num_decode_tokens": {}, ',
    )
    line += '"decode_context": 9, "prefill_context": 0, "attention_pairs": 0}}\n'
    steps = [line.format(0.01 + 1e-4 * n, n) for n in range(1, 80)]
    words = ["calibrate", str(log), "--out", str(tmp_path / "p.json")]
    log.write_text("".join([*steps, steps[0][:20]]))
    assert main(words) == 0
    for bad in (["{}"], [steps[0][:20] + "\n"], [steps[0][:20] + "\n", steps[0]]):
        log.write_text("".join([*steps, *bad]))
        assert main(words) == 2
        assert f"{log}:80: " in capsys.readouterr().err


def test_a_log_of_several_servers_is_taken_apart(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parity of a run is that of its server, and of a log that of all; the last server did nothing."""
    other, last = record(arrivals(30, 8.0), "edf"), start("edf", LIMITS_OF_LAST)
    foreign = "".join(json.dumps(call) + "\n" for call in other.calls).replace("cmpl-nb01-", "cmpl-nb00-")
    own = (folder / "decisions.jsonl").read_text()
    both = save(record(arrivals(80, 8.0)), tmp_path / "both")
    log = both / "decisions.jsonl"
    log.write_text('{"call": "start", "for\n' + foreign + own + '{"call": "pl\n' + json.dumps(last) + "\n")
    found = {}
    for name, recorded in (("alone", folder), ("run", both), ("log", log), ("other", tmp_path / "o.jsonl")):
        (tmp_path / "o.jsonl").write_text(foreign)
        assert main(["replay", str(recorded), "--parity", "--json", str(tmp_path / "r.json")]) == 0
        found[name] = json.loads((tmp_path / "r.json").read_text())["parity"]
    assert found["run"] == found["alone"]
    assert found["log"]["plans"] == found["run"]["plans"] + found["other"]["plans"]
    profile = tmp_path / "p.json"
    for recorded in (both, log):
        assert main(["calibrate", str(recorded), "--out", str(profile)]) == 0
        assert json.loads(profile.read_text())["engine"]["num_kv_tokens"] == LIMITS.num_kv_tokens
    words = ["--profile", str(profile), "--repeats", "1", "--json", str(tmp_path / "r.json")]
    assert main(["replay", str(both), *words]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["parity"] == found["run"]


def test_one_profile_writes_the_same_bytes_again(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["calibrate", str(folder), "--name", "x", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_decisions_are_made_again_without_a_profile(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(folder), "--parity"]) == 0
    assert "0 differ" in capsys.readouterr().out
    log = tmp_path / "other.jsonl"
    text = (folder / "decisions.jsonl").read_text()
    changed = text.replace('"is_clean": true', '"is_clean": false')
    assert changed != text
    log.write_text(changed)
    assert main(["replay", str(log), "--parity", "--json", str(tmp_path / "p.json")]) == 1
    assert json.loads((tmp_path / "p.json").read_text())["parity"]["first_differences"]
    assert "the first plan that differs is call" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("replay {0}", "--profile: missing; give a file of `niyama calibrate`, or --parity"),
        ("replay {0} --profile {0}/none.json", "none.json: cannot be read"),
        ("replay {0} --profile {0}/decisions.jsonl", "decisions.jsonl: not JSON"),
        ("replay {0}/none --parity", "none: No such file or directory"),
        ("replay {0} --parity --repeats 0", "--repeats: 0 is no number of simulations"),
        ("calibrate {0}/none --out x", "none: cannot be read"),
        ("calibrate {1} --out x", "no decisions.jsonl in it; serve with --decision-log"),
        ("calibrate {0}/records.jsonl --out x", "records.jsonl:1: "),
        ("calibrate {0} --out {0}", "cannot be written"),
        # Outputs come first: a run that cannot even be read is not what these name.
        ("calibrate {0}/none --out {0}", "--out: {0} cannot be written: it is a folder"),
        ("calibrate {0}/none --out x --json {0}", "--json: {0} cannot be written: it is a folder"),
        ("replay {0}/none --parity --json {0}", "--json: {0} cannot be written: it is a folder"),
        ("replay {0}/none --profile x --png {0}/no/x.png", "cannot be written: there is no folder"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    folder: Path, tmp_path: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.format(folder, tmp_path).split()) == 2
    error = capsys.readouterr().err
    assert message.format(folder) in error
    assert error.count("\n") == 1
