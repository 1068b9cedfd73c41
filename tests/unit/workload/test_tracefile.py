from __future__ import annotations

from pathlib import Path

import pytest

from niyama.qos import Importance
from niyama.workload.tracefile import TraceError, TraceRow, load_trace

HEAD = "arrived_at,num_prefill_tokens,num_decode_tokens,class,tenant,importance\n"


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_all_columns_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "2.5,10,3,chat,acme,low\n1,20,4,,,\n")
    assert load_trace(path) == [
        TraceRow(1.0, 20, 4),
        TraceRow(2.5, 10, 3, "chat", "acme", Importance.LOW),
    ]


def test_csv_without_arrivals_and_with_other_columns_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "num_prefill_tokens,num_decode_tokens,ratio\n7,8,0.5\n")
    assert load_trace(path) == [TraceRow(None, 7, 8)]


def test_mooncake_jsonl_is_read_in_milliseconds(tmp_path: Path) -> None:
    line = '{"timestamp": 1500, "input_length": 6, "output_length": 2, "hash_ids": [1]}\n'
    assert load_trace(write(tmp_path, line, "t.jsonl")) == [TraceRow(1.5, 6, 2)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,0,5,,,", r"t\.csv:3: num_prefill_tokens: '0' is no count; allowed: a whole number"),
        ("1,3.5,5,,,", r"t\.csv:3: num_prefill_tokens: '3\.5'"),
        ("1,3,,,,", r"t\.csv:3: num_decode_tokens: ''"),
        ("1,3", r"t\.csv:3: num_decode_tokens: None"),
        ("-1,3,5,,,", r"t\.csv:3: arrived_at: '-1' is no instant; allowed: seconds >= 0"),
        ("nan,3,5,,,", r"t\.csv:3: arrived_at: 'nan'"),
        ("1,3,5,,,urgent", r"t\.csv:3: importance: 'urgent' is unknown; allowed: high, normal, low"),
    ],
)
def test_bad_csv_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, HEAD + "1,1,1,,,\n" + line + "\n")
    with pytest.raises(TraceError, match=message) as caught:
        load_trace(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"t\.jsonl:2: not JSON"),
        ("[1]", r"t\.jsonl:2: a list is not a request"),
        ('{"input_length": true, "output_length": 1}', r"t\.jsonl:2: input_length: True"),
        (
            '{"input_length": 1, "output_length": 1, "timestamp": "x"}',
            r"t\.jsonl:2: timestamp: 'x'.*milliseconds",
        ),
    ],
)
def test_bad_jsonl_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, '{"input_length": 1, "output_length": 1}\n' + line + "\n", "t.jsonl")
    with pytest.raises(TraceError, match=message):
        load_trace(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no column num_prefill_tokens"), (HEAD, "no requests"), ("a,b\n1,2\n", "t.csv:1: no column")],
)
def test_file_that_is_no_trace_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        load_trace(write(tmp_path, text))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read the trace: No such file"):
        load_trace(tmp_path / "none.csv")
