from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from niyama.qos import ClientSloLimits, Importance, QosBook, QosClass, Slo, Tenant, paper_book
from niyama.qosfile import (
    MAX_FILE_BYTES,
    QosFileError,
    book_from_mapping,
    book_to_mapping,
    load_book,
    parse_book,
)

FULL = """\
default: chat
classes:
  chat:      {ttft: 2s, tbt: 50ms, importance: high}
  summarize: {ttlt: 10min}
  overnight: {ttlt: 8h, importance: low}
service_tiers: {priority: chat, flex: overnight}
objectives: {gold: chat}
client_slos: {allow: true, min_ttft: 500ms, min_tbt: 20ms, min_ttlt: 5s}
tenants: {acme: {weight: 2, classes: [chat, summarize]}}
"""

FULL_BOOK = QosBook(
    default="chat",
    classes={
        "chat": QosClass("chat", Slo(ttft_s=2.0, tbt_s=0.05), Importance.HIGH),
        "summarize": QosClass("summarize", Slo(ttlt_s=600.0)),
        "overnight": QosClass("overnight", Slo(ttlt_s=28800.0), Importance.LOW),
    },
    service_tiers={"priority": "chat", "flex": "overnight"},
    objectives={"gold": "chat"},
    client_slos=ClientSloLimits(True, 0.5, 0.02, 5.0),
    tenants={"acme": Tenant(2.0, ("chat", "summarize"))},
)


def test_file_with_every_part_gives_the_whole_book() -> None:
    assert parse_book(FULL) == FULL_BOOK
    assert list(parse_book(FULL).classes) == ["chat", "summarize", "overnight"]


@pytest.mark.parametrize("book", [FULL_BOOK, paper_book()])
def test_book_round_trips_through_a_mapping(book: QosBook) -> None:
    assert book_from_mapping(book_to_mapping(book)) == book


def test_example_file_is_a_book() -> None:
    example_file = Path(__file__).parents[2] / "examples" / "qos.yaml"
    assert load_book(example_file).default == "chat"


def test_names_of_classes_are_read_as_they_are_written() -> None:
    """YAML takes them for numbers, truth values, null and a date."""
    book = parse_book(
        "default: 1\n"
        "classes: {1: {ttft: 1s}, on: {ttft: 1s}, null: {ttft: 1s}, 0x1F: {ttft: 1s}, "
        "2024-01-01: {ttlt: 1s}}\n"
        "service_tiers: {yes: on, 7: null}\n"
        "objectives: {1.5: 0x1F}\n"
        "tenants: {3: {classes: [1, on, 2024-01-01]}}\n"
    )
    assert (book.default, list(book.classes)) == ("1", ["1", "on", "null", "0x1F", "2024-01-01"])
    assert (book.service_tiers, book.objectives) == ({"yes": "on", "7": "null"}, {"1.5": "0x1F"})
    assert book.tenants["3"].classes == ("1", "on", "2024-01-01")


CHAT = "default: chat\nclasses:\n  chat: {ttft: 2s}\n"

BAD = {
    "empty": ("", "1: the file is empty"),
    "only a comment": ("# nothing\n", "1: the file is empty"),
    "scalar": ("chat", "1: 'chat' is not a mapping of names; allowed: a mapping with default, classes"),
    "list": ("- chat", "1: a list is not a mapping of names"),
    "no default": (
        "classes: {chat: {ttft: 1s}}",
        "1: default: missing; a QoS file needs default and classes",
    ),
    "no classes": ("default: chat", "1: classes: missing"),
    "empty classes": ("default: chat\nclasses: {}", "2: classes: empty; allowed: at least one class"),
    "classes null": ("default: chat\nclasses:", "2: classes: None is not a mapping of names"),
    "default unknown": (
        CHAT.replace("t: chat", "t: talk"),
        "1: default: 'talk' is not a class of this file; allowed: chat",
    ),
    "default as written": (
        CHAT.replace("t: chat", "t: on"),
        "1: default: 'on' is not a class of this file; allowed: chat",
    ),
    "default a list": (CHAT.replace("t: chat", "t: [chat]"), "1: default: a list is not a class"),
    "unknown top key": (CHAT + "clases: {}\n", "4: clases: unknown key; allowed: default, classes,"),
    "unknown class key": (
        CHAT.replace("ttft", "ttfb"),
        "3: classes.chat.ttfb: unknown key; allowed: ttft, tbt, ttlt, imp",
    ),
    "class without SLO": (
        CHAT.replace("{ttft: 2s}", "{importance: low}"),
        "3: classes.chat: promises nothing; allowed: at least one of ttft, tbt",
    ),
    "class that means all": (
        CHAT.replace("  chat", "  all"),
        "3: classes.all: 'all' means all classes in reports; allowed: any other name",
    ),
    "class null": (CHAT.replace("{ttft: 2s}", ""), "3: classes.chat: None is not a mapping"),
    "class name": (
        CHAT.replace("  chat", "  'a b'"),
        "3: classes.a b: 'a b' is not a class name; allowed: 1 to 64 of A-Z",
    ),
    "long class name": (CHAT.replace("  chat", "  " + "x" * 65), "is not a class name"),
    "duration form": (
        CHAT.replace("2s", "6 sec"),
        "3: classes.chat.ttft: '6 sec' is not a duration; allowed: a number with ms, s, min or h, e.g. 6s",
    ),
    "duration without unit": (CHAT.replace("2s", "6"), "3: classes.chat.ttft: 6 is not a duration"),
    "duration zero": (
        CHAT.replace("2s", "0s"),
        "3: classes.chat.ttft: '0s' is out of range; allowed: more than 0s",
    ),
    "duration huge": (CHAT.replace("2s", "9000h"), "3: classes.chat.ttft: '9000h' is out of range"),
    "duration nan": (CHAT.replace("2s", ".nan"), "3: classes.chat.ttft: nan is not a duration"),
    "duration null": (CHAT.replace("2s", "~"), "3: classes.chat.ttft: None is not a duration"),
    "importance": (
        CHAT.replace("2s", "2s, importance: urgent"),
        "3: classes.chat.importance: 'urgent' is not an importance; allowed: high, normal, low",
    ),
    "duplicate key": (CHAT + "default: chat\n", "4: default: given twice, first in line 1; allowed: once"),
    "duplicate class": (CHAT + "  chat: {ttft: 1s}\n", "4: classes.chat: given twice, first in line 3"),
    "tier to unknown": (
        CHAT + "service_tiers:\n  flex: bulk\n",
        "5: service_tiers.flex: 'bulk' is not a class of this file",
    ),
    "objective to unknown": (
        CHAT + "objectives: {gold: bulk}\n",
        "4: objectives.gold: 'bulk' is not a class",
    ),
    "tier name": (
        CHAT + "service_tiers: {'a b': chat}\n",
        "4: service_tiers.a b: 'a b' is not a usable name",
    ),
    "tiers a list": (CHAT + "service_tiers: [flex]\n", "4: service_tiers: a list is not a mapping of names"),
    "allow": (
        CHAT + "client_slos: {allow: perhaps}\n",
        "4: client_slos.allow: 'perhaps' is not a truth value",
    ),
    "floor": (CHAT + "client_slos: {min_tbt: 0ms}\n", "4: client_slos.min_tbt: '0ms' is out of range"),
    "floor key": (CHAT + "client_slos: {max_tbt: 1s}\n", "4: client_slos.max_tbt: unknown key"),
    "weight zero": (
        CHAT + "tenants: {a: {weight: 0}}\n",
        "4: tenants.a.weight: 0 is not a weight; allowed: a number > 0",
    ),
    "weight bool": (CHAT + "tenants: {a: {weight: true}}\n", "4: tenants.a.weight: True is not a weight"),
    "weight inf": (CHAT + "tenants: {a: {weight: .inf}}\n", "4: tenants.a.weight: inf is not a weight"),
    "weight nan": (CHAT + "tenants: {a: {weight: .nan}}\n", "4: tenants.a.weight: nan is not a weight"),
    "tenant class": (
        CHAT + "tenants: {a: {classes: [bulk]}}\n",
        "4: tenants.a.classes.0: 'bulk' is not a class",
    ),
    "tenant classes text": (
        CHAT + "tenants: {a: {classes: chat}}\n",
        "4: tenants.a.classes: 'chat' is not a list",
    ),
    "tenant classes empty": (
        CHAT + "tenants: {a: {classes: []}}\n",
        "4: tenants.a.classes: a list is not a list of classes",
    ),
    "tenant classes twice": (
        CHAT + "tenants: {a: {classes: [chat, chat]}}\n",
        "4: tenants.a.classes: names a class twice",
    ),
    "alias": (
        "default: &x chat\nclasses: {chat: {ttft: 1s}}\nobjectives: {a: *x}",
        "3: objectives.a: an alias (*name) is not allowed",
    ),
    "alias bomb": ("a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", ": an alias (*name) is not allowed"),
    "recursive alias": ("a: &a [*a]\n", ": an alias (*name) is not allowed"),
    "merge key": (CHAT + "<<: {default: chat}\n", "4: <<: unknown key"),
    "python tag": ("default: !!python/object:os.system x", "1: default: the tag 'tag:yaml.org"),
    "own tag": ("default: !x {a: b}", "1: default: the tag '!x' is not allowed"),
    "list as key": ("? [a]\n: b\n", "1: the file: a key must be a single word"),
    "two documents": (CHAT + "---\n" + CHAT, "4: not YAML: but found another document"),
    "broken": ("default: [", "not YAML:"),
    "control character": ("default: chat\n\x07", "2: not YAML: the character '\\x07' is not allowed"),
    "deep": ("[" * 5000, "1: not usable YAML: nested too deeply"),
    "newline in name": (CHAT.replace("t: chat", 't: "a\\nb"'), "1: default: 'a\\nb' is not a class"),
    "long number": (CHAT.replace("2s", "9" * 5000), "3: classes.chat.ttft: '999"),
    "bad timestamp": (
        CHAT.replace("2s", "2020-99-99"),
        "3: classes.chat.ttft: '2020-99-99' is not a duration",
    ),
    "bad int": (CHAT.replace("2s", "0x_"), "3: classes.chat.ttft: '0x_' is not a duration"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_file_with_an_error_gives_one_line_that_names_it(text: str, message: str) -> None:
    with pytest.raises(QosFileError) as caught:
        parse_book(text, "qos.yaml")
    line = str(caught.value)
    assert line.startswith("qos.yaml:")
    assert message in line
    assert len(line.splitlines()) == 1
    assert len(line) < 400


def test_mapping_with_an_error_names_the_field_without_a_file() -> None:
    with pytest.raises(QosFileError, match=r"^classes\.chat\.ttft: 6 is not a duration"):
        book_from_mapping({"default": "chat", "classes": {"chat": {"ttft": 6}}})
    with pytest.raises(QosFileError, match=r"tenants\.a\.weight: .* is not a weight"):
        book_from_mapping(
            {"default": "c", "classes": {"c": {"ttft": "1s"}}, "tenants": {"a": {"weight": 10**400}}}
        )
    with pytest.raises(QosFileError, match=r"^a mapping is not a mapping of names"):
        book_from_mapping({1: 2})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"default: chat\n\xff\xfe", ":2: not UTF-8 text"),
        (b" " * (MAX_FILE_BYTES + 1), ": too large for a QoS file"),
        (b"", ":1: the file is empty"),
        (b"\x00", ":1: not YAML"),
    ],
    ids=["latin", "large", "empty", "nul"],
)
def test_load_of_a_file_that_is_no_text_gives_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "qos.yaml"
    file.write_bytes(data)
    with pytest.raises(QosFileError) as caught:
        load_book(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_load_takes_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "qos.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode())
    assert load_book(file) == FULL_BOOK


@pytest.mark.parametrize("name", [".", "missing.yaml", "nul\0.yaml", "x" * 300])
def test_load_of_what_is_no_file_gives_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(QosFileError, match=r"cannot read the QoS file: .") as caught:
        load_book(f"{tmp_path}/{name}")
    assert len(str(caught.value).splitlines()) == 1


FRAGMENTS = st.sampled_from(
    [
        *FULL.split(),
        *FULL.splitlines(keepends=True),
        "\n",
        " ",
        "  ",
        "&a ",
        "*a",
        "!!set",
        "? ",
        "- ",
        "\x85",
        "\ud800",
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(FRAGMENTS, st.text(max_size=4)), max_size=20).map("".join)))
@example("=: =\n")
@example("a: !!int x")
@example("a: !!bool x")
@example("!!float ''")
def test_any_text_gives_a_book_or_one_line(text: str) -> None:
    try:
        book = parse_book(text)
    except QosFileError as error:
        line = str(error)
    else:
        line = "a book"
        assert book_from_mapping(book_to_mapping(book)) == book
    assert len(line.splitlines()) == 1


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["chat", "6s", "x"]), st.text()
    ),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.sampled_from(FULL.replace(":", " ").split()), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_mapping_gives_a_book_or_one_line(mapping: object) -> None:
    try:
        book = book_from_mapping(mapping)
    except QosFileError as error:
        line = str(error)
    else:
        line = "a book"
        assert book_from_mapping(book_to_mapping(book)) == book
    assert len(line.splitlines()) == 1
