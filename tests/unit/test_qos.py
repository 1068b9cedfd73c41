from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from types import MappingProxyType

import pytest

from niyama.qos import QosBook, QosClass, Slo, Tenant, paper_book


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("part", ["ttft_s", "tbt_s", "ttlt_s"])
def test_slo_that_is_no_duration_is_refused(part: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"Slo.{part}: .* allowed: seconds > 0"):
        Slo(**{part: seconds})


@pytest.mark.parametrize(
    ("slo", "is_interactive", "is_empty"),
    [
        (Slo(), False, True),
        (Slo(ttft_s=1), True, False),
        (Slo(tbt_s=1), True, False),
        (Slo(ttlt_s=1), False, False),
    ],
)
def test_slo_parts_say_who_waits(slo: Slo, is_interactive: bool, is_empty: bool) -> None:
    assert (slo.is_interactive, slo.is_empty) == (is_interactive, is_empty)


def test_paper_book_holds_the_three_tiers_of_the_evaluation() -> None:
    book = paper_book()
    assert {name: entry.slo for name, entry in book.classes.items()} == {
        "interactive": Slo(ttft_s=6.0, tbt_s=0.05),
        "batch": Slo(ttlt_s=600.0),
        "background": Slo(ttlt_s=1800.0),
    }
    assert book.default_class is book.classes["interactive"]


CHAT = QosClass("chat", Slo(ttft_s=1))


def test_book_with_a_default_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"QosBook\.default: no class 'none'; allowed: chat"):
        QosBook(default="none", classes={"chat": CHAT})


def test_book_with_a_map_to_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"QosBook\.service_tiers: no class 'none'"):
        QosBook(default="chat", classes={"chat": CHAT}, service_tiers={"flex": "none"})
    with pytest.raises(ValueError, match=r"QosBook\.objectives: no class 'none'"):
        QosBook(default="chat", classes={"chat": CHAT}, objectives={"gold": "none"})
    with pytest.raises(ValueError, match=r"QosBook\.tenants: no class 'none'"):
        QosBook(default="chat", classes={"chat": CHAT}, tenants={"acme": Tenant(classes=("none",))})


def test_book_with_a_class_of_the_name_of_all_is_refused() -> None:
    with pytest.raises(ValueError, match="'all' means all classes; allowed: any other name"):
        QosBook(default="all", classes={"all": QosClass("all", Slo(ttft_s=1.0))})


def test_book_with_a_class_under_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'talk' holds the class named 'chat'"):
        QosBook(default="talk", classes={"talk": CHAT})


def test_tenant_without_a_list_may_use_every_class() -> None:
    assert Tenant().allows("chat")
    assert Tenant(classes=("chat",)).allows("chat")
    assert not Tenant(classes=("chat",)).allows("batch")


@pytest.mark.parametrize("copied", [lambda book: pickle.loads(pickle.dumps(book)), copy.deepcopy])
def test_book_can_be_sent_to_another_process(copied: Callable[[QosBook], QosBook]) -> None:
    book = QosBook(
        default="interactive",
        classes=paper_book().classes,
        service_tiers=MappingProxyType({"flex": "batch"}),
        tenants=MappingProxyType({"acme": Tenant(2.0, ("batch",))}),
    )
    assert copied(book) == book
    assert copied(paper_book()).default_class == paper_book().default_class
