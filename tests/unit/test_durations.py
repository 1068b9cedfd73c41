from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyama.durations import MAX_DURATION_S, format_duration, parse_duration_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6s", 6.0),
        ("50ms", 0.05),
        ("35ms", 0.035),
        ("10min", 600.0),
        ("8h", 28800.0),
        ("0.5 h", 1800.0),
        ("8784h", MAX_DURATION_S),
    ],
)
def test_duration_text_means_its_seconds_exactly(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "6",
        "6 sec",
        "s",
        "-1s",
        "1e3s",
        "nan s",
        "inf h",
        "6s\n",
        "٦s",
        "1_0s",
        ".5s",
        6,
        6.0,
        None,
        True,
        ["6s"],
    ],
)
def test_duration_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration; allowed: a number with ms, s, min or h"):
        parse_duration_s(value)


@pytest.mark.parametrize("text", ["0s", "0.0ms", "8785h", "999999999999999h"])
def test_duration_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is out of range; allowed: more than 0s and at most 366 days"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.05, "50ms"), (6.0, "6s"), (90.0, "90s"), (600.0, "10min"), (0.0005, "0.0005s")]
)
def test_duration_is_formatted_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=1, max_value=10**9))
def test_duration_of_whole_milliseconds_round_trips(num_ms: int) -> None:
    assert parse_duration_s(format_duration(num_ms / 1000)) == num_ms / 1000


@given(
    st.integers(0, 10**9),
    st.text("0123456789", min_size=1, max_size=15),
    st.sampled_from(["ms", "s", "min", "h"]),
)
def test_duration_that_is_read_can_be_written_and_read_again(whole: int, decimals: str, unit: str) -> None:
    try:
        seconds = parse_duration_s(f"{whole}.{decimals}{unit}")
    except ValueError:
        return
    assert parse_duration_s(format_duration(seconds)) == seconds


@given(st.floats(1e-9, MAX_DURATION_S))
def test_any_duration_round_trips_to_the_nanosecond(seconds: float) -> None:
    assert parse_duration_s(format_duration(seconds)) == round(seconds, 9)
