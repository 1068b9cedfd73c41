"""The routes that generate: which of them take a class, and where each shows its `service_tier`.

On a route that takes none, an ask is refused: whoever names a class there must not believe to have got it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from niyama.server.tiers import anthropic_tier

JsonObject = dict[str, object]

_RESPONSES_TIERS = ("auto", "default", "flex", "scale", "priority")


def _always() -> bool:
    return True


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the server.

    Attributes:
        put_tier: Writes the tier into an answer or one event of a stream; in place.
        marker: Bytes that an event must hold for `put_tier` to have anything to do.
        takes_xargs: Whether the running vLLM hands `vllm_xargs` of the body to the scheduler.
        is_form: The body is no JSON but a form, which is not read here.
    """

    put_tier: Callable[[JsonObject, str], None]
    marker: bytes = b"{"
    takes_xargs: Callable[[], bool] = _always
    is_form: bool = False


def _put_on_top(answer: JsonObject, tier: str) -> None:
    answer["service_tier"] = tier


def _put_in_response(answer: JsonObject, tier: str) -> None:
    """An answer of /v1/responses is the response; an event of its stream may hold one."""
    response = answer.get("response") if "type" in answer else answer
    if isinstance(response, dict):
        response["service_tier"] = tier


def _put_in_usage(answer: JsonObject, tier: str) -> None:
    """A message has `usage`; of a stream's events only `message_start` holds the message."""
    message = answer.get("message") if answer.get("type") == "message_start" else answer
    usage = message.get("usage") if isinstance(message, dict) and message.get("type") == "message" else None
    if isinstance(usage, dict):
        usage["service_tier"] = anthropic_tier(tier)


def _messages_take_xargs() -> bool:
    """/v1/messages has the field in vLLM 0.32 and not in 0.28."""
    model = _loaded("vllm.entrypoints.anthropic.protocol", "AnthropicMessagesRequest")
    return model is None or "vllm_xargs" in getattr(model, "model_fields", ())


def _batch_takes_xargs() -> bool:
    """The batch's model has no such field; vLLM 0.32 copies it all the same, as all that it does not know."""
    model = _loaded("vllm.entrypoints.openai.chat_completion.protocol", "BatchChatCompletionRequest")
    return model is None or _copies_xargs(model)


def _loaded(module: str, name: str) -> Any:
    """Return a request model that vLLM has loaded in this process; it says what a list of versions would."""
    return getattr(sys.modules.get(module), name, None)


@cache
def _copies_xargs(model: Any) -> bool:
    xargs = {"a": 1}
    try:
        batch = model.model_validate({"messages": [[{"role": "user", "content": ""}]], "vllm_xargs": xargs})
        return bool(batch.to_chat_completion_request(batch.messages[0]).vllm_xargs == xargs)
    except Exception:  # another vLLM, with another shape: promise nothing
        return False


ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": Route(_put_on_top),
    "/v1/chat/completions/batch": Route(_put_on_top, takes_xargs=_batch_takes_xargs),
    "/v1/completions": Route(_put_on_top),
    "/v1/responses": Route(_put_in_response, b'"response"'),
    "/v1/messages": Route(_put_in_usage, b'"usage"', _messages_take_xargs),
    "/invocations": Route(_put_on_top),  # chat or completions, as the body is
    "/inference/v1/generate": Route(_put_on_top, takes_xargs=_never),
    "/generative_scoring": Route(_put_on_top, takes_xargs=_never),
    "/v1/systemone": Route(_put_on_top, takes_xargs=_never),
    "/cohere/v2/chat": Route(_put_on_top, takes_xargs=_never),
    "/v1/audio/transcriptions": Route(_put_on_top, takes_xargs=_never, is_form=True),
    "/v1/audio/translations": Route(_put_on_top, takes_xargs=_never, is_form=True),
}


def route_of(scope: Mapping[str, object]) -> tuple[str, Route] | None:
    """Return the route of an ASGI scope and its path, root path removed, if it is one of `ROUTES`."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path = cast(str, scope["path"]).removeprefix(cast(str, scope.get("root_path", "")))
    route = ROUTES.get(path)
    return None if route is None else (path, route)


def prepare_tier(path: str, body: MutableMapping[str, object], tier: str) -> None:
    """Replace a `service_tier` that vLLM would refuse: /v1/responses takes OpenAI's older names only."""
    if path == "/v1/responses" and body.get("service_tier") not in _RESPONSES_TIERS:
        body["service_tier"] = tier if tier in _RESPONSES_TIERS else "auto"


def with_tier(route: Route, data: bytes, tier: str) -> bytes:
    """Return a JSON object with the tier in its place; anything else comes back as it is."""
    if route.marker not in data:
        return data
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(answer, dict):
        return data
    route.put_tier(answer, tier)
    return json.dumps(answer, separators=(",", ":")).encode()


class SseTier:
    """Puts the tier into the events of one stream, whatever way the bytes are cut."""

    def __init__(self, route: Route, tier: str) -> None:
        """Take the route that streams and the tier to show."""
        self.route = route
        self.tier = tier
        self.tail = b""

    def feed(self, data: bytes, *, is_last: bool) -> bytes:
        """Return the lines that are complete now; a line that is not is kept for the next call."""
        lines = (self.tail + data).split(b"\n")
        self.tail = b"" if is_last else lines.pop()
        return b"\n".join([*map(self._line, lines), *([] if is_last else [b""])])

    def _line(self, line: bytes) -> bytes:
        head, colon, rest = line.partition(b":")
        if head != b"data" or not colon or rest.strip() == b"[DONE]":
            return line
        end = b"\r" if rest.endswith(b"\r") else b""
        return b"data: " + with_tier(self.route, rest.strip(), self.tier) + end
