"""vLLM endpoint plugin: ``/niyama/state``, ``/niyama/classes`` and the task that feeds the metrics.

vLLM loads it when `VLLM_PLUGINS` names ``niyama``, as `niyama serve` sees to. The interface is
vllm/plugins/endpoint_plugins/interface.py, the same from 0.28 on; nothing of vLLM is imported.

vLLM's own API-key check guards only a few prefixes, ``/niyama`` not among them, so the routes
check the key themselves.
"""

from __future__ import annotations

import asyncio
import logging
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from niyama.server.keys import ApiKeys
from niyama.server.metrics import Metrics
from niyama.telemetry import Drain, State

DRAIN_PERIOD_S = 0.5
MAX_BACKOFF_S = 30.0
ANSWER_TIMEOUT_S = 10.0
"""How long a route waits for the engine, which answers between two steps."""

_Body = Callable[[str, dict[str, State]], dict[str, object]]

_log = logging.getLogger(__name__)


class NotNiyamaError(RuntimeError):
    """The engine's scheduler is not Niyama's, so it has no state to tell."""

    def __init__(self) -> None:
        """Say how to get the right one."""
        super().__init__(
            "This server's scheduler is not Niyama's. Start it with `niyama serve`, "
            "or give vLLM --scheduler-cls niyama.engines.vllm.scheduler."
        )


OUR_SCHEDULER = "niyama.engines.vllm.scheduler"


class EngineLink:
    """Asks the schedulers through vLLM's utility RPC, which runs between two engine steps."""

    def __init__(self, engine_client: Any) -> None:
        """Take vLLM's engine client (`AsyncLLM`)."""
        self._client = engine_client
        self._core = engine_client.engine_core
        # The stock scheduler is never called: an engine logs a traceback when the call fails there.
        self._may_be_ours = engine_client.vllm_config.scheduler_config.scheduler_cls is not None

    @property
    def model_name(self) -> str:
        """The value of the label `model_name` in vLLM's own metrics."""
        return str(self._client.vllm_config.model_config.served_model_name)

    @property
    def is_first_client(self) -> bool:
        """Whether this API process is the one, of possibly several, that drains."""
        return int(getattr(self._core, "client_index", 0)) == 0

    @property
    def is_dead(self) -> bool:
        """Whether the engine is gone for good."""
        return bool(getattr(self._client, "errored", False))

    async def ask(self, verb: str) -> dict[str, Any]:
        """Return each engine's answer by the engine's label.

        vLLM before 0.32 offers no call to every engine: there, engine 0 alone is asked.

        Raises:
            NotNiyamaError: The scheduler takes no such call.
            Exception: Whatever vLLM raises when an engine fails.
        """
        if not self._may_be_ours:
            raise NotNiyamaError
        ask_all = getattr(self._core, "call_utility_all_async", None)
        try:
            if ask_all is None:
                answers = [await self._core.call_utility_async("scheduler", verb)]
            else:
                answers = await ask_all("scheduler", verb)
        except Exception as error:
            # vLLM passes on only the text of what was raised in the engine.
            if "is not a callable object" in str(error):
                self._may_be_ours = False
                raise NotNiyamaError from error
            raise
        labels = getattr(self._core, "engine_ranks_managed", range(len(answers)))
        return {str(label): answer for label, answer in zip(labels, answers, strict=False)}


class SharedState:
    """The engines' state for many who ask at once: the engine is asked once at a time, however many they are.

    Nobody gets an answer that was begun before they asked.
    """

    def __init__(self, link: EngineLink) -> None:
        """Take the way to the engines."""
        self._link = link
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[dict[str, Any]] | None = None

    async def ask(self) -> dict[str, Any]:
        """Return each engine's state by its label; raises as `EngineLink.ask`."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask_in_turn(), name="niyama-state")
            self._next.add_done_callback(_take_note)
        return await asyncio.shield(self._next)

    async def _ask_in_turn(self) -> dict[str, Any]:
        async with self._turn:
            self._next = None  # who comes from now on needs a later answer
            return await self._link.ask("state")


def _take_note(task: asyncio.Task[Any]) -> None:
    """Look at how it ended: all who asked may have given up before."""
    if not task.cancelled():
        task.exception()


class MetricsFeeder:
    """Drains the schedulers' telemetry into the metrics until told to stop."""

    def __init__(self, link: EngineLink, period_s: float = DRAIN_PERIOD_S) -> None:
        """Start nothing yet.

        Args:
            link: The way to the engines.
            period_s: Time between two drains, > 0.
        """
        self._link = link
        self._period_s = period_s
        self._metrics: Metrics | None = None

    async def run(self) -> None:
        """Drain until cancelled; return early when there is nothing to drain any more.

        An engine error is logged once per outage and makes the next tries rarer.
        """
        delay_s = self._period_s
        try:
            while not self._link.is_dead:
                try:
                    self._feed(await self._link.ask("drain"))
                    delay_s = self._period_s
                except NotNiyamaError:
                    _log.info("No niyama_* metrics: the scheduler is not Niyama's")
                    return
                except Exception:
                    if delay_s == self._period_s:
                        _log.warning("No metrics from the scheduler for now; trying on", exc_info=True)
                    delay_s = min(2 * delay_s, MAX_BACKOFF_S)
                await asyncio.sleep(delay_s)
        finally:
            if self._metrics is not None:
                self._metrics.unregister()

    def _feed(self, answers: dict[str, Drain]) -> None:
        for engine, answer in answers.items():
            if self._metrics is None:
                slos = {name: known["slo"] for name, known in answer["state"]["classes"].items()}
                self._metrics = Metrics(slos, self._link.model_name)
            self._metrics.feed(engine, answer["events"], answer["state"])


class NiyamaEndpoints:
    """The plugin object that vLLM asks for."""

    name = "niyama"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        """Start with no engine: every route answers 503 until `init_state`."""
        self._link: EngineLink | None = None
        self._state: SharedState | None = None
        self._keys = ApiKeys()
        self._feeding: asyncio.Task[None] | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes, and the end of the background task to the app's shutdown."""
        router = APIRouter(prefix="/niyama", tags=["niyama"], lifespan=self._lifespan)
        router.add_api_route("/state", self.get_state, methods=["GET"])
        router.add_api_route("/classes", self.get_classes, methods=["GET"])
        app.include_router(router)

    async def init_state(self, engine_client: Any, state: object, args: Namespace) -> None:
        """Take the engine client and start to feed the metrics.

        Args:
            engine_client: vLLM's `AsyncLLM`; None where there is no engine.
            state: The app's state; unused.
            args: The server's arguments; `api_key` guards the routes, else `VLLM_API_KEY`.
        """
        self._keys = ApiKeys.of_server(args)
        if engine_client is None:
            return
        self._link = EngineLink(engine_client)
        self._state = SharedState(self._link)
        if self._link.is_first_client:
            if getattr(args, "scheduler_cls", None) == OUR_SCHEDULER:
                from niyama.engines.vllm.selfmeasure import measure

                await measure(engine_client)
            self._feeding = asyncio.create_task(MetricsFeeder(self._link).run(), name="niyama-metrics")

    async def get_state(self, request: Request) -> Response:
        """Answer what every scheduler is doing: `niyama.telemetry.State` per engine."""
        return await self._answer(request, _state_body)

    async def get_classes(self, request: Request) -> Response:
        """Answer the QoS classes that a client may name, with their promises."""
        return await self._answer(request, _classes_body)

    async def _answer(self, request: Request, body: _Body) -> Response:
        # Header text is latin-1 by the ASGI rules.
        if not self._keys.allow(request.headers.get("authorization", "").encode("latin-1")):
            return _refusal(
                401,
                "This server asks for an API key: send the header 'Authorization: Bearer KEY'.",
                "invalid_request_error",
                "invalid_api_key",
            )
        if self._link is None or self._state is None:
            return _refusal(503, "This server has no engine.", "server_error", "engine_unavailable")
        try:
            states = await asyncio.wait_for(self._state.ask(), ANSWER_TIMEOUT_S)
        except NotNiyamaError as error:
            return _refusal(503, str(error), "server_error", "not_niyama")
        except Exception as error:
            message = f"The engine did not answer: {str(error) or type(error).__name__}."
            return _refusal(503, message, "server_error", "engine_unavailable")
        return JSONResponse(body(self._link.model_name, states))

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if self._feeding is not None:
                self._feeding.cancel()
                with suppress(asyncio.CancelledError):
                    await self._feeding


def endpoint_plugin() -> NiyamaEndpoints:
    """Return a new plugin object; the entry point of group ``vllm.endpoint_plugins``."""
    return NiyamaEndpoints()


def _state_body(model_name: str, states: dict[str, State]) -> dict[str, object]:
    return {"model_name": model_name, "engines": states}


def _classes_body(model_name: str, states: dict[str, State]) -> dict[str, object]:
    book = next(iter(states.values()))["classes"]
    classes = [
        {"name": name, "importance": known["importance"], "slo": known["slo"]} for name, known in book.items()
    ]
    return {"model_name": model_name, "classes": classes}


def _refusal(status: int, message: str, kind: str, code: str) -> JSONResponse:
    error = {"message": message, "type": kind, "param": None, "code": code}
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": error}, status, headers)
