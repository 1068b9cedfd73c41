"""When to go on without a failed policy, and when to try a fresh one.

After a failure vLLM schedules in its own order for a pause, in steps, that doubles with every further
failure and starts over once a policy has held for longer than the longest pause.
"""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

MAX_RECOVERY_STEPS = 1024
"""Longest pause, in steps, between attempts to put a fresh policy in the place of a failed one."""


class Recovery:
    """Counts steps since a policy failed.

    Attributes:
        is_failed: Whether vLLM's own order is in force.
    """

    def __init__(self) -> None:
        self.is_failed = False
        self._num_good_steps = 0
        self._recover_in = 1
        self._pause = 1

    def held(self) -> None:
        """Note a step that the policy planned."""
        self._num_good_steps += 1

    def fail(self, where: str) -> None:
        """Note a failure; call it from an except block. Said once per failure, not once per step."""
        if self.is_failed:
            return
        logger.exception("Niyama: the policy failed in %s; vLLM's own order takes over", where)
        self.is_failed = True
        if self._num_good_steps > MAX_RECOVERY_STEPS:
            self._pause = 1
        self._num_good_steps = 0
        # A failure in `plan` costs the present step its plan, any other one the next.
        self._recover_in = self._pause + (where != "plan")
        self._pause = min(2 * self._pause, MAX_RECOVERY_STEPS)

    def is_due(self) -> bool:
        """Count a step without a policy; return whether to try a fresh one now."""
        self._recover_in -= 1
        return self._recover_in <= 0

    def failed_again(self) -> None:
        """Note that the fresh policy could not take over."""
        self._recover_in = self._pause
        self._pause = min(2 * self._pause, MAX_RECOVERY_STEPS)

    def recovered(self) -> None:
        """Note that a fresh policy is in force."""
        self.is_failed = False
