from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from niyama.cli import announce
from niyama.qos import paper_book
from niyama.qosfile import parse_book

URL = "http://127.0.0.1:8000"


def pasted(text: str) -> list[tuple[list[str], dict[str, Any]]]:
    """Return the words and the JSON body of each curl command in the text, as a shell reads them."""
    commands = [part.partition("\n")[2] for part in text.split("\n\n") if "curl" in part]
    split = [shlex.split(command) for command in commands]
    return [(words, json.loads(words[words.index("-d") + 1])) for words in split]


def test_requests_show_interactive_batch_and_own_promise() -> None:
    text = announce.requests_to_paste(URL, "demo", paper_book(), needs_key=False)
    (first, chat), (second, batch), (third, own) = pasted(text)
    assert all(f"{URL}/v1/chat/completions" in words for words in (first, second, third))
    assert "x-niyama-class: interactive" in first
    assert chat["stream"] is True
    assert "x-niyama-class: batch" in second
    assert "stream" not in batch
    assert own["vllm_xargs"] == {"niyama_ttft_ms": 500, "niyama_tbt_ms": 50}
    assert {body["model"] for body in (chat, batch, own)} == {"demo"}
    assert "authorization" not in text


@pytest.mark.parametrize(
    ("book", "num_requests"),
    [
        ("default: a\nclasses: {a: {ttlt: 1min}}\nclient_slos: {allow: false}", 1),
        ("default: a\nclasses: {a: {ttft: 1s}}", 2),
    ],
)
def test_requests_are_only_those_that_the_book_answers(book: str, num_requests: int) -> None:
    text = announce.requests_to_paste(URL, "m", parse_book(book), needs_key=False)
    assert len(pasted(text)) == num_requests


def test_requests_respect_the_books_floors() -> None:
    book = parse_book(
        "default: a\nclasses: {a: {ttft: 9s}}\nclient_slos: {min_ttft: 3s, min_tbt: 200ms, min_ttlt: 5s}"
    )
    *_, (_, own) = pasted(announce.requests_to_paste(URL, "m", book, needs_key=False))
    assert own["vllm_xargs"] == {"niyama_ttft_ms": 3000, "niyama_tbt_ms": 200}


def test_requests_with_an_api_key_send_it_from_the_environment() -> None:
    text = announce.requests_to_paste(URL, "m", paper_book(), needs_key=True)
    assert text.count('-H "authorization: Bearer $VLLM_API_KEY"') == 3


class _Health(BaseHTTPRequestHandler):
    num_asked = 0

    def do_GET(self) -> None:
        type(self).num_asked += 1
        self.send_response(200 if self.path == "/health" and self.num_asked > 1 else 503)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def health_url() -> Iterator[str]:
    _Health.num_asked = 0
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_announcement_waits_until_the_server_is_healthy(
    health_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce.when_healthy(health_url, "ready")
    for thread in threading.enumerate():
        if thread.name == "niyama-announce":
            thread.join(timeout=60)
    assert capsys.readouterr().out == "ready\n"
    assert _Health.num_asked == 2
