"""What an engine with overlapping steps says about durations reaches the model, live and replayed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from niyama.latency import OnlineModel
from niyama.scheduling.baselines import FcfsPolicy
from niyama.scheduling.policy import BatchShape, Launch, StepOutcome
from niyama.scheduling.recording import Call, Recorded, tell

DECODES = BatchShape(0, 8, 8_000)
Lessons = list[tuple[BatchShape, float]] | None


def _serve(lessons: Lessons, num_steps: int = 40) -> tuple[FcfsPolicy, list[Call]]:
    """Run steps that seem to take 30 ms each."""
    calls: list[Call] = []
    policy = FcfsPolicy(OnlineModel())
    recorded: Any = Recorded(policy, calls.append)
    for number in range(num_steps):
        launch = Launch(0.03 * number, [], DECODES)
        recorded.begin(launch)
        recorded.observe(StepOutcome(launch, launch.at, launch.at + 0.03, lessons=lessons))
    return policy, [json.loads(json.dumps(call)) for call in calls]


@pytest.mark.parametrize(
    ("lessons", "learned_s"), [(None, 0.03), ([(DECODES, 0.007)], 0.007)], ids=["own duration", "lesson"]
)
def test_lessons_replace_the_step_s_own_duration(lessons: Lessons, learned_s: float) -> None:
    policy, _ = _serve(lessons)
    assert policy.model.predict_s(DECODES) == pytest.approx(learned_s, rel=0.05)


def test_no_lesson_yet_teaches_nothing() -> None:
    policy, _ = _serve([])
    assert policy.model.stats()["num_steps"] == 0


@pytest.mark.parametrize("lessons", [None, [], [(DECODES, 0.007), (DECODES.with_chunk(9, 0), 0.02)]])
def test_recorded_lessons_are_learned_again(lessons: Lessons) -> None:
    policy, calls = _serve(lessons)
    again = FcfsPolicy(OnlineModel())
    launch = None
    for call in calls[1:]:
        tell(again, call, launch)
        if call["call"] == "begin":
            launch = Launch(call["at"], [], BatchShape(*call["shape"]))
    assert again.model.stats() == policy.model.stats()
    assert all(("lessons" in call) == (lessons is not None) for call in calls if call["call"] == "observe")
