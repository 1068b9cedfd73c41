"""The gaps told step by step are those between the tokens of each answer, whatever happens."""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from niyama.engines.vllm.gaps import TokenGaps
from niyama.scheduling.policy import BatchShape, Launch, StepOutcome

SHAPE = BatchShape(1, 1, 1)
CLASSES = ("chat", "batch")


class Engine:
    """Answers and the instants of their tokens, step by step, as an engine has them."""

    def __init__(self) -> None:
        self.gaps = TokenGaps(CLASSES)
        self.told: Counter[tuple[str, int]] = Counter()
        self.token_at: dict[str, list[int]] = {}
        self.decoding: set[str] = set()
        self.evicted: set[str] = set()
        self.flight: deque[tuple[Launch, set[str], set[str]]] = deque()
        self.now = 0
        self.number = 0

    def launch(self, data: st.DataObject) -> None:
        decoding = sorted(self.decoding)
        preempted = [i for i in decoding if data.draw(st.integers(0, 9)) == 0]
        stalled = [i for i in decoding if i not in preempted and data.draw(st.integers(0, 3)) == 0]
        again = {i for i in sorted(self.evicted) if data.draw(st.booleans())}
        new = set()
        for _ in range(data.draw(st.integers(0, 2))):
            self.number += 1
            new.add(f"{self.number}")
        launch = Launch(float(self.now), [], SHAPE, stalled, preempted)
        begun = again | new
        self.gaps.begin(launch, [(i, class_of(i)) for i in sorted(begun)])
        emitting = self.decoding - {*preempted, *stalled}
        self.flight.append((launch, emitting, begun))
        self.evicted = (self.evicted | set(preempted)) - begun
        self.decoding = (self.decoding - set(preempted)) | begun

    def end_step(self, data: st.DataObject) -> None:
        self.now += data.draw(st.integers(1, 5))
        launch, emitting, begun = self.flight.popleft()
        extra = {
            i: data.draw(st.sampled_from([-1, 1, 2]))
            for i in sorted(emitting)
            if data.draw(st.integers(0, 5)) == 0
        }
        for request_id in emitting | begun:
            tokens = self.token_at.setdefault(request_id, [])
            tokens += [self.now] * (1 + extra.get(request_id, 0))
        outcome = StepOutcome(launch, 0.0, float(self.now), completed=sorted(begun), extra_tokens=extra)
        for qos_class, seconds, count in self.gaps.observe(outcome):
            self.told[qos_class, round(seconds)] += count
        for request_id in sorted(self.decoding | self.evicted):
            if data.draw(st.integers(0, 7)) == 0:
                self.leave(request_id)

    def leave(self, request_id: str) -> None:
        self.gaps.end(request_id)
        self.decoding.discard(request_id)
        self.evicted.discard(request_id)
        for _, emitting, begun in self.flight:
            emitting.discard(request_id)
            begun.discard(request_id)


def class_of(request_id: str) -> str:
    return CLASSES[int(request_id) % 2]


@settings(max_examples=300)
@given(st.data())
def test_gaps_are_those_between_tokens(data: st.DataObject) -> None:
    engine = Engine()
    most = data.draw(st.integers(1, 2), label="steps in flight")
    for _ in range(data.draw(st.integers(1, 25), label="steps")):
        engine.launch(data)
        while len(engine.flight) >= most:
            engine.end_step(data)
    while engine.flight:
        engine.end_step(data)
    true = Counter(
        (class_of(i), after - before) for i, at in engine.token_at.items() for before, after in pairwise(at)
    )
    assert +engine.told == true
    for request_id in sorted(engine.decoding | engine.evicted):
        engine.leave(request_id)
    assert not engine.gaps.num_followed
