from __future__ import annotations

import json
from pathlib import Path

import pytest

from niyama.bench.records import Header, Record, RecordsError, read_records, write_records
from niyama.qos import Importance, paper_book

HEADER = Header(
    run_id="nb1",
    target={"url": "http://x", "model": "demo"},
    versions={"niyama": "1"},
    seed=3,
    book=paper_book(),
    workload={"trace": "azure-conv", "qps": 2.5},
    started_at=1e9,
    started_monotonic=12.5,
)
WHOLE = Record(
    id="r0",
    qos_class="batch",
    tenant="acme",
    importance=Importance.LOW,
    carrier="header",
    num_prompt_tokens=7,
    num_output_tokens=2,
    due_at=0.1234567,
    sent_at=0.125,
    token_at=[0.5, 0.75],
    finished_at=0.8,
    status=200,
    num_prompt_tokens_served=7,
    num_output_tokens_served=2,
    served_class="batch",
)
FAILED = Record(id="r1", qos_class="batch", num_prompt_tokens=7, num_output_tokens=2, due_at=1.0, error="no")


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, HEADER, [WHOLE, FAILED])
    header, records = read_records(path)
    assert header == HEADER
    assert records[0].due_at == 0.123457
    records[0].due_at = WHOLE.due_at
    assert records == [WHOLE, FAILED]


def test_file_is_one_json_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, HEADER, [WHOLE])
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["niyama_records"] == 1
    assert list(first["book"]["classes"]) == ["interactive", "batch", "background"]
    assert second["class"] == "batch"
    assert second["importance"] == "low"


def test_unknown_fields_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    line = {**WHOLE.to_json(), "from_the_future": 1}
    path.write_text(json.dumps({**HEADER.to_json(), "new": 2}) + "\n" + json.dumps(line) + "\n")
    assert read_records(path)[1][0].id == "r0"


def header_line() -> str:
    return json.dumps(HEADER.to_json())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("{", ":1: not JSON"),
        ("[]", ":1: a list is no record"),
        ('{"a": 1}', ":1: niyama_records: None is unknown; allowed: 1"),
        ('{"niyama_records": 2}', ":1: niyama_records: 2 is unknown; allowed: 1"),
        ('{"niyama_records": 1}', ":1: no field run_id"),
        (json.dumps({**HEADER.to_json(), "book": {}}), ":1: book: "),
        (header_line() + "\n{}", ":2: num_prompt_tokens: None is no number"),
        (header_line() + "\n" + json.dumps({**WHOLE.to_json(), "due_at": "now"}), ":2: due_at: 'now'"),
        (header_line() + "\n" + json.dumps({**WHOLE.to_json(), "token_at": [None]}), ":2: token_at"),
        (header_line() + "\n" + json.dumps({**WHOLE.to_json(), "importance": "no"}), ":2: not a record"),
        (
            header_line() + '\n{"num_prompt_tokens": 1, "num_output_tokens": 1, "due_at": 0}',
            ":2: not a record",
        ),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(text)
    with pytest.raises(RecordsError) as failure:
        read_records(path)
    assert said in str(failure.value)
    assert "\n" not in str(failure.value)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="cannot read the records"):
        read_records(tmp_path / "none")
