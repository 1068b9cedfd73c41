"""What counts as an unknown class at the scheduler, which cannot refuse."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from niyama.engines.vllm.books import Books
from niyama.engines.vllm.view import view
from niyama.qosfile import parse_book
from niyama.settings import Settings

BOOK = parse_book(
    "default: a\nclasses: {a: {ttft: 1s}, b: {ttlt: 1h}}\n"
    "tenants: {acme: {classes: [a]}, late: {classes: [b]}}\n"
)


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"niyama_class": "gold"}, 1),
        ({"niyama_class": "gold", "niyama_tenant": "acme"}, 1),
        ({"niyama_class": "b", "niyama_tenant": "acme"}, 0),
        ({"niyama_tenant": "late"}, 0),
        ({"niyama_ttft_ms": -1}, 0),
        ({"niyama_class": "b"}, 0),
    ],
)
def test_only_a_class_that_is_not_in_the_book_is_unknown(asked: dict[str, object], count: int) -> None:
    request = SimpleNamespace(
        request_id="1",
        arrival_time=time.time(),
        num_prompt_tokens=3,
        max_tokens=4,
        priority=0,
        block_hashes=[],
        sampling_params=SimpleNamespace(extra_args=asked, stop=None),
    )
    books = Books(Settings(book=BOOK), "0.32.0")
    books.arrive(view(request, 0, BOOK, 1.0))
    assert books.drain()["unknown_class"] == count
