"""ASGI middleware that turns what a client asks for into what the scheduler reads.

    vllm serve ... --middleware niyama.server.middleware.QosMiddleware

vLLM adds user middleware last, so it runs first, before the API key is checked. A request without the
key that vLLM asks for goes through unread, for vLLM to refuse: nobody's body is taken in and parsed
here before. Requests that ask for nothing go through with
their bytes untouched, and so does every request in which this code itself fails.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from niyama.asking import Ask
from niyama.pauses import QuietCollector
from niyama.server.answer import Answer
from niyama.server.carriers import Carried, QosRequestError, read_carriers
from niyama.server.keys import ApiKeys, guards
from niyama.server.routes import JsonObject, Route, prepare_tier, route_of
from niyama.settings import Settings, SettingsError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Largest request body that is taken in; a long chat with a few images fits many times."""

log = logging.getLogger(__name__)


class QosMiddleware:
    """Maps headers, `service_tier` and `vllm_xargs` to the scheduler's keys, and answers in kind."""

    def __init__(
        self, app: App, settings: Settings | None = None, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        """Wrap an ASGI application.

        Args:
            app: What answers the requests.
            settings: None takes what the scheduler takes: vLLM's `--additional-config` if it holds
                settings, else `NIYAMA_SETTINGS`.
            max_body_bytes: Larger request bodies get 413.

        Raises:
            SettingsError: `NIYAMA_SETTINGS` holds no usable settings.
        """
        self.app = app
        self.book = (settings or Settings.from_env()).book
        self.may_read_config = settings is None
        self.max_body_bytes = max_body_bytes
        self.keys: ApiKeys | None = None
        self.has_failed = False
        self.collector = QuietCollector()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or let it through."""
        found = route_of(scope)
        if found is None or not self._concerns(*found, scope):
            await self.app(scope, receive, send)
            return
        path, route = found
        if self.may_read_config:
            self._read_config(scope)
        messages = [] if route.is_form else await self._read(scope, receive)
        if messages is None:
            await _refuse(send, 413, self._too_large())
            return
        try:
            scope, messages, carried = self._map(path, route, scope, messages)
        except QosRequestError as error:
            await _refuse(send, error.status, error.to_body())
            return
        except Exception:
            self._note_failure()
            carried = None
        if carried is not None:
            send = Answer(send, route, carried, self._note_failure)
        with self.collector.open_request():
            await self.app(scope, _replay(messages, receive), send)

    def _concerns(self, path: str, route: Route, scope: Scope) -> bool:
        """Whether a request of a route is ours to read; the rest vLLM answers or refuses alone."""
        if not route.is_form and not _is_json(scope):
            return False
        if self.keys is None:
            args = _server_state(scope, "args")  # known once the server answers requests
            self.keys = ApiKeys() if args is None else ApiKeys.of_server(args)
        return not guards(path) or self.keys.allow(_header(scope, b"authorization"))

    def _read_config(self, scope: Scope) -> None:
        """Take the book from vLLM's own configuration, known once the server answers requests."""
        self.may_read_config = False
        config = _server_state(scope, "vllm_config")
        additional = getattr(config, "additional_config", None)
        if isinstance(additional, dict) and "niyama" in additional:
            try:
                self.book = Settings.from_mapping(additional["niyama"]).book
            except SettingsError as error:
                log.error("QoS mapping keeps the book of NIYAMA_SETTINGS; --additional-config: %s", error)

    async def _read(self, scope: Scope, receive: Receive) -> list[Message] | None:
        """Return the messages of the body, or of as much as came before a disconnect; None: too large."""
        declared = _header(scope, b"content-length")
        if declared.isdigit() and len(declared) < 20 and int(declared) > self.max_body_bytes:
            return None
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self.max_body_bytes:
                return None
            if message["type"] != "http.request" or not message.get("more_body", False):
                return messages

    def _map(
        self, path: str, route: Route, scope: Scope, messages: list[Message]
    ) -> tuple[Scope, list[Message], Carried | None]:
        """Return the request to pass on, and what it asks for; None where vLLM is to refuse it."""
        if route.is_form:
            return scope, messages, self._without_ask(path, read_carriers(scope["headers"], {}, self.book))
        if messages[-1]["type"] != "http.request":
            return scope, messages, None
        raw = b"".join(message.get("body", b"") for message in messages)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            return scope, messages, None
        if not isinstance(body, dict):
            return scope, messages, None
        carried = read_carriers(scope["headers"], body, self.book)
        if not route.takes_xargs():
            return scope, messages, self._without_ask(path, carried)
        if body.get("use_beam_search"):
            # vLLM runs a beam search as requests of its own, without what this one asks for.
            return scope, messages, self._without_ask(f"{path} with use_beam_search", carried)
        changed = _with_ask(path, body, carried)
        if changed == body:
            return scope, messages, carried
        data = json.dumps(changed, separators=(",", ":")).encode()
        return _resized(scope, len(data)), [{"type": "http.request", "body": data}], carried

    def _without_ask(self, path: str, carried: Carried) -> Carried:
        """Refuse to promise what this vLLM would not deliver; the default class needs no carrier."""
        default = self.book.default_class
        if carried.ask == Ask(default, default.slo):
            return carried
        message = (
            f"This vLLM version cannot carry a QoS class, SLO or tenant on {path}; allowed here: the default "
            f"class {default.name} and no tenant. Plain /v1/chat/completions takes them all."
        )
        raise QosRequestError(message, "vllm_xargs", "invalid_qos_class")

    def _too_large(self) -> JsonObject:
        message = f"The request body is too large; allowed: at most {self.max_body_bytes} bytes."
        return QosRequestError(message, "body", "request_too_large").to_body()

    def _note_failure(self) -> None:
        """Log the exception in flight, the first time; call it from an except block."""
        if not self.has_failed:
            log.exception("QoS mapping failed; requests in which it fails pass through unchanged")
        self.has_failed = True


def _with_ask(path: str, body: JsonObject, carried: Carried) -> JsonObject:
    changed = dict(body)
    if carried.xargs:
        changed["vllm_xargs"] = carried.xargs
    if carried.tier is not None:
        prepare_tier(path, changed, carried.tier)
    return changed


def _server_state(scope: Scope, name: str) -> Any:
    return getattr(getattr(scope.get("app"), "state", None), name, None)


def _header(scope: Scope, name: bytes) -> bytes:
    values = (value for key, value in scope["headers"] if key.lower() == name)
    return cast(bytes, next(values, b""))


def _is_json(scope: Scope) -> bool:
    return _header(scope, b"content-type").lower().split(b";", 1)[0].strip() == b"application/json"


def _resized(scope: Scope, num_bytes: int) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
    headers = [(name, value) for name, value in headers if name.lower() != b"transfer-encoding"]
    return {**scope, "headers": [*headers, (b"content-length", str(num_bytes).encode())]}


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def replay() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return replay


async def _refuse(send: Send, status: int, body: JsonObject) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
