"""The server under load: where it is, what it serves, and which of vLLM's extensions it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from niyama.bench.stream import AnswerStream, message_of
from niyama.qos import Importance, QosBook, QosClass, Slo
from niyama.wording import one_line, shown

if TYPE_CHECKING:
    from aiohttp import ClientSession

Endpoint = Literal["completions", "chat"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)

_PROBE_LIMIT_S = 60.0
_NOT_OURS = "not_niyama"
"""Code of the refusal by `niyama.server.plugin` in front of another scheduler."""


class TargetError(RuntimeError):
    """A server that cannot be measured; the text is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server and how to speak to it.

    Attributes:
        url: Without the `/v1`.
        model: Name in the requests.
        endpoint: Which of OpenAI's two.
        api_key: None if it wants none.
        is_counted: It counts tokens in every event of a stream (`continuous_usage_stats`).
        has_usage: It takes `stream_options.include_usage`.
        forces_length: It takes `ignore_eos` and `min_tokens`.
        takes_token_ids: A completion's prompt may be token ids.
        has_tokenize: It has `POST /tokenize`.
        max_model_len: Tokens of prompt and output together; None if it does not say.
        vllm_version: None if it is not vLLM.
        policy: Niyama's policy; None if the scheduler is another one.
        emulated: Whose step times a server of ours imitates; None if it does not say so.
    """

    url: str
    model: str
    endpoint: Endpoint = "completions"
    api_key: str | None = None
    is_counted: bool = True
    has_usage: bool = True
    forces_length: bool = True
    takes_token_ids: bool = True
    has_tokenize: bool = True
    max_model_len: int | None = None
    vllm_version: str | None = None
    policy: str | None = None
    emulated: str | None = None

    @property
    def path(self) -> str:
        """Where requests go."""
        return "/v1/chat/completions" if self.endpoint == "chat" else "/v1/completions"

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}

    def body(self, prompt: object, num_output_tokens: int) -> dict[str, Any]:
        """Return the JSON of a streamed request: `prompt` is text, token ids, or messages."""
        key = "messages" if self.endpoint == "chat" else "prompt"
        body: dict[str, Any] = {"model": self.model, key: prompt, "stream": True, "temperature": 0}
        body["max_tokens"] = num_output_tokens
        if self.forces_length:
            body |= {"ignore_eos": True, "min_tokens": num_output_tokens}
        if self.has_usage:
            counted = {"continuous_usage_stats": True} if self.is_counted else {}
            body["stream_options"] = {"include_usage": True, **counted}
        return body

    def to_json(self) -> dict[str, Any]:
        """Return what the header of the records says of the server; never the key."""
        names = ("url", "model", "endpoint", "vllm_version", "policy", "emulated", "max_model_len")
        return {
            **{name: getattr(self, name) for name in names},
            "token_times": "every token" if self.is_counted else "every event",
            "output_length": "forced" if self.forces_length else "at most",
        }


@dataclass(slots=True)
class _Look:
    """What the server's own pages say."""

    models: list[dict[str, Any]] = field(default_factory=list)
    vllm_version: str | None = None
    policy: str | None = None
    emulated: str | None = None
    has_tokenize: bool = False


async def find_target(
    session: ClientSession, url: str, *, model: str | None, endpoint: Endpoint, api_key: str | None
) -> Target:
    """Return the server at a URL and what it takes, found by asking it.

    Sends a few requests of one or two tokens. Extensions that the server refuses with 400 or 422
    are left out, all together.

    Raises:
        TargetError: nobody answers, the key is wrong, the model is not served, a plain request fails, or
            the server has Niyama's pages and cannot answer them now.
    """
    url = url.rstrip("/").removesuffix("/v1")
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    look = await _look(session, url, headers)
    served = {str(entry.get("id")): entry for entry in look.models}
    model = model or next(iter(served), None)
    if model is None:
        raise TargetError(f"{url}: it lists no models; allowed: name one with --model")
    if served and model not in served:
        raise TargetError(f"{url}: model {shown(model)} is not served; allowed: {', '.join(served)}")
    full = Target(
        url=url,
        model=model,
        endpoint=endpoint,
        api_key=api_key,
        has_tokenize=look.has_tokenize,
        max_model_len=served.get(model, {}).get("max_model_len"),
        vllm_version=look.vllm_version,
        policy=look.policy,
        emulated=look.emulated,
    )
    return await _fitted(session, full)


async def _fitted(session: ClientSession, full: Target) -> Target:
    """Return the target with as many extensions as the server takes."""
    plain = replace(full, is_counted=False, forces_length=False, takes_token_ids=False, has_usage=True)
    bare = replace(plain, has_usage=False)
    refusal = ""
    for target in (full, plain, bare):
        prompt: object = [{"role": "user", "content": "hello there"}]
        if target.endpoint == "completions":
            prompt = [11, 12] if target.takes_token_ids else "hello there"
        answer = await try_request(session, target, target.body(prompt, 2))
        if isinstance(answer, str):
            refusal = answer
        # One count is the total at the end: it takes the option and does not act on it.
        elif not (target.is_counted and answer.num_counts < 2):
            return target
    raise TargetError(one_line(f"{full.url}{full.path}: {refusal}"))


async def try_request(session: ClientSession, target: Target, body: Mapping[str, Any]) -> AnswerStream | str:
    """Return the whole answer of one request, or why there is none. Raises TargetError if nobody answers."""
    import aiohttp

    stream = AnswerStream(is_counted=target.is_counted)
    try:
        limit = aiohttp.ClientTimeout(total=_PROBE_LIMIT_S)
        async with session.post(
            target.url + target.path, json=body, headers=target.headers, timeout=limit
        ) as response:
            data = await response.read()
            if response.status != 200:
                return f"HTTP {response.status}: {error_text(data)}"
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TargetError(one_line(f"{target.url}: {type(error).__name__}: {error}")) from None
    for line in data.splitlines(keepends=True):
        stream.feed(line, 0.0)
    return stream if stream.error is None else stream.error


def error_text(data: bytes) -> str:
    """Return the message in the body of a refusal, on one line."""
    try:
        body = json.loads(data)
    except ValueError:
        return one_line(data.decode("utf-8", "replace"))[:300]
    return _message(body)


def _message(body: object) -> str:
    return message_of(body.get("error", body) if isinstance(body, dict) else body)


async def _look(session: ClientSession, url: str, headers: Mapping[str, str]) -> _Look:
    look = _Look()
    status, models = await get_json(session, f"{url}/v1/models", headers)
    _check_key(url, status)
    if isinstance(models, dict) and isinstance(models.get("data"), list):
        look.models = [entry for entry in models["data"] if isinstance(entry, dict)]
    _, version = await get_json(session, f"{url}/version", headers)
    if isinstance(version, dict) and isinstance(version.get("version"), str):
        look.vllm_version = version["version"]
    state = await _get_own(session, f"{url}/niyama/state", headers)
    if isinstance(state, dict):
        engines = [engine for engine in state.get("engines", {}).values() if isinstance(engine, dict)]
        look.policy = str(engines[0].get("policy")) if engines else None
        look.emulated = next((str(engine["emulated"]) for engine in engines if engine.get("emulated")), None)
    status, _ = await get_json(session, f"{url}/tokenize", headers, {"prompt": "a"})
    look.has_tokenize = status == 200
    return look


def _check_key(url: str, status: int) -> None:
    if status in (401, 403):
        raise TargetError(f"{url}: HTTP {status}; allowed: the server's key with --api-key")


async def _get_own(session: ClientSession, url: str, headers: Mapping[str, str]) -> Any:
    """Return the JSON of one of Niyama's own pages; None of a server with another scheduler.

    A server of ours that is too busy to answer must not be taken for another one: it would get no
    classes and be judged by other promises.

    Raises:
        TargetError: nobody answers, or neither the page nor a no comes.
    """
    status, answer = await get_json(session, url, headers)
    if status == 200:
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    is_other = status == 503 and isinstance(error, dict) and error.get("code") == _NOT_OURS
    if status == 404 or is_other:
        return None
    _check_key(url, status)
    said = "" if answer is None else f": {_message(answer)}"
    allowed = "200 of a server with Niyama's scheduler, 404 of any other"
    raise TargetError(one_line(f"{url}: HTTP {status}{said}; allowed: {allowed}"))


async def find_book(session: ClientSession, url: str, api_key: str | None) -> QosBook | None:
    """Return the classes of a server with Niyama's scheduler; None of any other.

    The server does not tell its maps and its default class: those of the book are not the server's.

    Raises:
        TargetError: nobody answers, the key is wrong, or the server cannot say now.
    """
    url = url.rstrip("/").removesuffix("/v1")
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    answer = await _get_own(session, f"{url}/niyama/classes", headers)
    if not isinstance(answer, dict) or not answer.get("classes"):
        return None
    classes = {
        entry["name"]: QosClass(entry["name"], Slo(**entry["slo"]), Importance[entry["importance"].upper()])
        for entry in answer["classes"]
    }
    return QosBook(default=next(iter(classes)), classes=MappingProxyType(classes))


async def get_json(
    session: ClientSession, url: str, headers: Mapping[str, str], body: object = None
) -> tuple[int, Any]:
    """Return status and JSON (None if it is none) of a GET, or of a POST if there is a body.

    Raises:
        TargetError: nobody answers.
    """
    import aiohttp

    method = "GET" if body is None else "POST"
    try:
        limit = aiohttp.ClientTimeout(total=_PROBE_LIMIT_S)
        async with session.request(method, url, json=body, headers=headers, timeout=limit) as response:
            data = await response.read()
            status = response.status
    except aiohttp.ClientConnectorError as error:
        raise TargetError(one_line(f"{url}: {error}; allowed: the address of a server that is up")) from None
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise TargetError(one_line(f"{url}: {type(error).__name__}: {error}")) from None
    try:
        return status, json.loads(data)
    except ValueError:
        return status, None
