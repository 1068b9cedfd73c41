"""The step log: one JSON line per engine step, what was planned, predicted and true."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from niyama.scheduling.policy import Plan, StepOutcome

logger = logging.getLogger(__name__)


class Lines:
    """Appends JSON lines to a file; a full disk ends the log, not the engine.

    The rest of a line that an earlier engine left half written keeps a line of its own.
    """

    def __init__(self, path: str, name: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._before = "\n" if _is_torn(path) else ""
        self._file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115  (lives as long as the engine)

    def write_line(self, line: Mapping[str, Any]) -> None:
        """Write an object; nothing once the log has ended."""
        if self._file.closed:
            return
        try:
            self._file.write(f"{self._before}{json.dumps(line)}\n")
            self._before = ""
        except (OSError, ValueError) as error:
            logger.error("Niyama: the %s ends here: %s", self._name, error)
            self._file.close()

    def close(self) -> None:
        """End the log."""
        self._file.close()


def _is_torn(path: str) -> bool:
    """Whether a file ends amid a line, as one does whose writer was killed."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        # What may only be appended to cannot be looked at.
        return False


class StepLog(Lines):
    """One line per step: what was planned, predicted and true."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "step log")

    def write(self, outcome: StepOutcome, plan: Plan | None, predicted_s: float, margin_s: float) -> None:
        """Write a step.

        Args:
            outcome: How it went.
            plan: What was planned; None when vLLM's own order ran.
            predicted_s: The model's prediction for what really ran, before it learned of it.
            margin_s: The safety margin at that time.
        """
        launch = outcome.launch
        line = {
            "at": launch.at,
            "started_at": outcome.started_at,
            "ended_at": outcome.ended_at,
            "duration_s": outcome.ended_at - outcome.started_at,
            "predicted_s": predicted_s,
            "margin_s": margin_s,
            **launch.shape._asdict(),
            "planned_tokens": None if plan is None else plan.budget,
            "realised_tokens": launch.shape.num_prefill_tokens + launch.shape.num_decode_tokens,
            "is_clean": outcome.is_clean,
            "is_fallback": plan is None,
            "prefills": [[p.request_id, p.num_tokens] for p in launch.prefills],
        }
        if plan is not None:
            line["slack_s"] = plan.slack_s if plan.slack_s < 1e9 else None
            line["planned_s"] = plan.predicted_s
            line["chunks"] = [list(chunk) for chunk in plan.chunks]
            for name in ("held", "stalled", "relegated", "restored"):
                line[name] = len(getattr(plan, name))
        self.write_line(line)
