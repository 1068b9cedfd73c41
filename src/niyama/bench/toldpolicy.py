"""A policy that has been told all that a server's policy was told, up to a moment of its decision log.

A log may hold several servers, one after the other: it is appended to. `start` begins a server, with a
step-time model that has learned nothing; `fresh` begins a policy that knows of no request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from niyama.bench.recordedrun import RunError
from niyama.latency import OnlineModel
from niyama.scheduling.policy import Launch, Policy
from niyama.scheduling.recording import Call, launch_from_mapping, tell
from niyama.scheduling.registry import make_policy
from niyama.settings import Settings
from niyama.wording import one_line


class ToldPolicy:
    """Takes a server's calls up to the first request that arrives at a moment.

    Attributes:
        start: The `start` of the server that was running then; None if the log has none before.
    """

    def __init__(self, name: str, calls: Iterable[Call], until: float) -> None:
        """Tell all calls before the first request that arrived at `until` or later.

        Args:
            name: Of the run, for errors.
            calls: A decision log.
            until: Instant on the server's clock.

        Raises:
            RunError: a call cannot be made here.
        """
        self.start: Call | None = None
        self._name = name
        self._settings = Settings()
        self._model = OnlineModel()
        self._policy: Policy | None = None
        self._failure = "the decision log has no `fresh` before the run"
        self._in_flight: deque[Launch] = deque()
        self._live: dict[str, None] = {}
        for number, call in enumerate(calls):
            if call["call"] == "arrive" and call["now_s"] >= until:
                break
            try:
                self._take(call)
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(one_line(f"{name}: call {number} ({call['call']}): {error}")) from None

    def policy_at(self, now_s: float) -> Policy:
        """Return the policy with nothing under way: who is still in is aborted, steps are forgotten.

        Raises:
            RunError: it failed, and the server began no new one before the run.
        """
        if self._policy is None:
            raise RunError(f"{self._name}: {self._failure}")
        for request_id in self._live:
            self._policy.depart(request_id, now_s, finished=False)
        self._live.clear()
        return self._policy

    def _take(self, call: Call) -> None:
        match call["call"]:
            case "start":
                self.start = call
                self._settings = Settings.from_mapping(call["settings"])
                self._model = OnlineModel()
            case "fresh":
                chosen = self._settings
                self._policy = make_policy(chosen.policy, self._model, chosen.pacing, chosen.chunk)
                self._in_flight.clear()
                self._live.clear()
            case "plan" | "realised":
                pass
            case _:
                self._tell(call)

    def _tell(self, call: Call) -> None:
        launch: Launch | None = None
        match call["call"]:
            case "arrive":
                self._live[call["request"]["request_id"]] = None
            case "depart":
                self._live.pop(call["request_id"], None)
            case "begin":
                self._in_flight.append(launch_from_mapping(call))
            case "observe" if self._in_flight:
                launch = self._in_flight.popleft()
            case _:
                pass
        if self._policy is None:
            return
        try:
            tell(self._policy, call, launch)
        except Exception as error:
            # A policy that raised at the server is left alone there as well, until a fresh one begins.
            self._policy = None
            self._failure = one_line(f"the policy fails at a recorded {call['call']}: {error}")
