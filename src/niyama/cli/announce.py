"""What `niyama serve` says when the server answers: three requests to paste."""

from __future__ import annotations

import json
import shlex
import ssl
import threading
import time
import urllib.error
import urllib.request

from niyama.qos import QosBook

_POLL_S = 0.5


def when_healthy(url: str, text: str) -> None:
    """Print the text once `url`/health answers 200, from a daemon thread."""
    threading.Thread(
        target=_print_when_healthy, args=(url, text), name="niyama-announce", daemon=True
    ).start()


def _print_when_healthy(url: str, text: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False  # it is our own process, and its certificate may be self-signed
    context.verify_mode = ssl.CERT_NONE
    # No proxy: the address is this machine's own.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    while True:
        time.sleep(_POLL_S)
        try:
            with opener.open(f"{url}/health", timeout=5):
                break
        except (urllib.error.URLError, OSError):
            continue
    print(text, flush=True)


def requests_to_paste(url: str, model: str, book: QosBook, *, needs_key: bool) -> str:
    """Return curl commands: one interactive, one batch, one with its own SLO, as the book allows."""
    interactive = [name for name, qos_class in book.classes.items() if qos_class.slo.is_interactive]
    batch = [name for name, qos_class in book.classes.items() if not qos_class.slo.is_interactive]
    parts = [f"niyama: {model} is ready at {url}. Three requests to paste:"]
    if interactive:
        parts.append(
            _curl("Interactive, read as it comes", url, _ask(model, stream=True), needs_key, interactive[0])
        )
    if batch:
        parts.append(_curl("Batch, only the last token counts", url, _ask(model), needs_key, batch[0]))
    if book.client_slos.allow:
        limits = book.client_slos
        own = {
            "niyama_ttft_ms": round(max(0.5, limits.min_ttft_s) * 1e3),
            "niyama_tbt_ms": round(max(0.05, limits.min_tbt_s) * 1e3),
        }
        body = _ask(model, stream=True) | {"vllm_xargs": own}
        parts.append(_curl("With its own promise", url, body, needs_key))
    return "\n\n".join(["", *parts, ""])


def _ask(model: str, *, stream: bool = False) -> dict[str, object]:
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me a short story."}],
        "max_tokens": 64,
    }
    return body | {"stream": True} if stream else body


def _curl(
    title: str, url: str, body: dict[str, object], needs_key: bool, qos_class: str | None = None
) -> str:
    # With the headers, one of which says which class serves it, and a line's end behind the JSON.
    words = ["curl -siN" if body.get("stream") else "curl -si -w '\\n'", f"{url}/v1/chat/completions"]
    words += ["-H 'content-type: application/json'"]
    if needs_key:
        words.append('-H "authorization: Bearer $VLLM_API_KEY"')
    if qos_class:
        words.append(f"-H 'x-niyama-class: {qos_class}'")
    return f"# {title}\n{' '.join(words)} \\\n  -d {shlex.quote(json.dumps(body))}"
