"""The OpenAI and Anthropic routes that take a class, and where each shows its `service_tier`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import cast

from niyama.server.tiers import anthropic_tier

JsonObject = dict[str, object]

_RESPONSES_TIERS = ("auto", "default", "flex", "scale", "priority")


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the server.

    Attributes:
        put_tier: Writes the tier into an answer or one event of a stream; in place.
        marker: Bytes that an event must hold for `put_tier` to have anything to do.
    """

    put_tier: Callable[[JsonObject, str], None]
    marker: bytes = b"{"


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


ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": Route(_put_on_top),
    "/v1/completions": Route(_put_on_top),
    "/v1/responses": Route(_put_in_response, b'"response"'),
    "/v1/messages": Route(_put_in_usage, b'"usage"'),
}


def route_of(scope: Mapping[str, object]) -> tuple[str, Route] | None:
    """Return the route of an ASGI scope, root path removed, if it takes a class."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path = cast(str, scope["path"]).removeprefix(cast(str, scope.get("root_path", "")))
    route = ROUTES.get(path)
    return None if route is None else (path, route)


def takes_xargs(path: str) -> bool:
    """Whether the running vLLM hands `vllm_xargs` of this route to the scheduler.

    /v1/messages has the field in vLLM 0.32 and not in 0.28. The request model that vLLM has
    loaded in this process says which it is, so no list of versions is kept here.
    """
    if path != "/v1/messages":
        return True
    protocol = sys.modules.get("vllm.entrypoints.anthropic.protocol")
    model = getattr(protocol, "AnthropicMessagesRequest", None)
    return model is None or "vllm_xargs" in getattr(model, "model_fields", ())


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
