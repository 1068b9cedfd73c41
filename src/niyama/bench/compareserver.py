"""The servers of a comparison: each in its turn, never two at once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import yaml

from niyama.bench.contestants import Contestant, Engine
from niyama.bench.servers import free_port, serving
from niyama.qos import QosBook
from niyama.qosfile import book_to_mapping


@dataclass(slots=True)
class OneServer:
    """Runs one contestant's server at a time; a context manager that leaves none behind.

    Attributes:
        engine: On which all run.
        folder: Of the comparison; gets `qos.yaml` and the servers' output in `logs`.
        keeps_logs: Whether our servers write down every step and every decision.
    """

    engine: Engine
    folder: Path
    keeps_logs: bool = False
    _servers: ExitStack = field(default_factory=ExitStack)
    _running: tuple[Contestant, str] | None = None

    def __enter__(self) -> OneServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def url(self, contestant: Contestant, book: QosBook) -> str:
        """Return the address of a contestant's server; starts it if another one or none is running.

        Args:
            contestant: Whose server.
            book: The promises as a user would write them; a server that runs keeps its own.

        Raises:
            ServerError: it does not start.
        """
        if self._running is None or self._running[0] != contestant:
            self.stop()
            self._running = (contestant, self._start(contestant, book))
        return self._running[1]

    def stop(self) -> None:
        """End the server that runs, if one does."""
        self._servers.close()
        self._running = None

    def _start(self, contestant: Contestant, book: QosBook) -> str:
        qos = self.folder / "qos.yaml"
        qos.write_text(yaml.safe_dump(book_to_mapping(book), sort_keys=False), encoding="utf-8")
        logs: Path | None = None
        if self.keeps_logs and not contestant.is_stock:
            # `niyama replay` looks for the decisions in the folder above that of a run.
            logs = (self.folder / "records" / contestant.key).absolute()
            logs.mkdir(parents=True, exist_ok=True)
        port = free_port()
        words = self.engine.command(contestant, port, qos, logs)
        output = self.folder / "logs" / f"{contestant.key}.log"
        return self._servers.enter_context(serving(words, port, output, self.engine.environment()))
