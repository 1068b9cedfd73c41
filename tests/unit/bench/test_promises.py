from __future__ import annotations

import pytest

from niyama.bench.promises import book_of, rule_book, step_s, tight_book, with_low_twins
from niyama.bench.records import Record
from niyama.bench.sender import ClientError
from niyama.qos import Importance, QosBook, QosClass, Slo, paper_book
from niyama.qosfile import book_from_mapping, book_to_mapping


def record(name: str, sent_at: float, token_at: list[float]) -> Record:
    return Record(
        id=name,
        qos_class="any",
        num_prompt_tokens=1,
        num_output_tokens=1,
        due_at=sent_at,
        sent_at=sent_at,
        token_at=token_at,
    )


def test_the_rule_is_as_written() -> None:
    slos = {name: qos_class.slo for name, qos_class in rule_book(0.04).classes.items()}
    assert slos["interactive"].tbt_s == pytest.approx(0.1)
    assert slos["interactive"].ttft_s == pytest.approx(1.6)
    assert slos["batch"] == Slo(ttlt_s=20)
    assert slos["background"] == Slo(ttlt_s=60)
    assert rule_book(0.04).default == "interactive"


@pytest.mark.parametrize("step_s", [0.048090590999891, 1 / 3, 0.0012345678912345])
def test_the_rule_can_be_written_as_a_qos_file(step_s: float) -> None:
    book = with_low_twins(rule_book(step_s))
    assert book_from_mapping(book_to_mapping(book)).classes == book.classes


def test_the_tight_book_is_the_one_of_the_issue() -> None:
    assert [qos_class.slo for qos_class in tight_book().classes.values()] == [
        Slo(ttft_s=2, tbt_s=0.05),
        Slo(ttft_s=4, tbt_s=0.1),
        Slo(ttlt_s=60),
        Slo(ttlt_s=600),
    ]


def test_every_class_gets_a_twin_of_low_importance_but_those_that_are_low() -> None:
    base = QosBook("a", {"a": QosClass("a", Slo(ttft_s=1)), "b": QosClass("b", Slo(), Importance.LOW)})
    book = with_low_twins(base)
    assert list(book.classes) == ["a", "b", "a-low"]
    assert book.classes["a-low"] == QosClass("a-low", Slo(ttft_s=1), Importance.LOW)
    assert with_low_twins(book) == book
    assert book.default == "a"


def test_the_first_class_is_the_default_one() -> None:
    assert book_of({"x": Slo(), "y": Slo()}).default == "x"
    assert with_low_twins(paper_book()).default == "interactive"


def test_the_step_time_is_the_longest_gap_while_a_prompt_is_computed() -> None:
    # Steps of 10 ms, but those that hold a prompt: 50, 40 and 60 ms.
    decode = record("decode", 0.0, [1.00, 1.01, 1.06, 1.07, 1.11, 1.12, 1.18, 1.19])
    probes = [
        record("one", 1.012, [1.061]),
        record("two", 1.065, [1.111]),
        record("three", 1.115, [1.181]),
        record("unanswered", 1.18, []),
    ]
    assert step_s(decode, probes) == pytest.approx(0.05)


def test_a_step_time_that_could_not_be_seen_is_refused() -> None:
    with pytest.raises(ClientError, match="step time"):
        step_s(record("decode", 0.0, [0.1, 0.2]), [record("late", 5.0, [5.1])])
