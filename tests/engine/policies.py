"""Policies no operator would choose: one that plans at random, and ones that fail."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.orderless import Orderless

from niyama.scheduling.base import BasePolicy
from niyama.scheduling.deadlines import Anchor
from niyama.scheduling.ledger import Job, Phase
from niyama.scheduling.limits import Limits
from niyama.scheduling.niyama import NiyamaPolicy
from niyama.scheduling.policy import BatchShape, Chunk, LatencyModel, Plan


class Adversary(Orderless):
    """Plans at random: any order, budgets too small, prefills and decodes passed over, unknown ids."""

    name = "adversary"

    def __init__(self, model: LatencyModel, seed: int = 0) -> None:
        super().__init__(model)
        self._random = random.Random(seed)

    def in_order(self) -> Iterator[Job]:
        return (job for job in self.ledger.jobs.values() if job.phase is not Phase.DECODING)

    def plan(self, now_s: float, limits: Limits) -> Plan:
        draw = self._random
        jobs = list(self.in_order())
        draw.shuffle(jobs)
        num_chosen = draw.randint(0, len(jobs))
        chosen, rest = jobs[:num_chosen], jobs[num_chosen:]
        started = [job.request_id for job in rest if job.phase is Phase.PREFILLING]
        decoding = [i for i, job in self.ledger.jobs.items() if job.phase is Phase.DECODING]
        shape = BatchShape(0, 1)
        return Plan(
            budget=draw.choice((1, 3, 17, 90, limits.token_budget)),
            chunks=[Chunk(job.request_id, draw.randint(1, max(1, job.remaining))) for job in chosen]
            + [Chunk("unknown", 5)],
            shape=shape,
            predicted_s=self.model.predict_s(shape),
            spares=[job.request_id for job in rest if draw.random() < 0.2],
            held=[*(i for i in started if draw.random() < 0.8), "unknown"],
            stalled=[*(i for i in decoding if draw.random() < 0.3), "unknown"],
        )


class Senseless(Adversary):
    """Plans what makes no sense as well: somebody twice, no budget or less, nothing though somebody waits."""

    name = "senseless"

    def plan(self, now_s: float, limits: Limits) -> Plan:
        plan, draw = super().plan(now_s, limits), self._random
        chunks = [*plan.chunks, *draw.sample(plan.chunks, draw.randint(0, len(plan.chunks)))]
        spares = [*plan.spares, *[chunk.request_id for chunk in chunks]]
        if draw.random() < 0.3:
            chunks, spares = [], []
        budget = draw.choice((-7, 0, plan.budget))
        held, stalled = [*plan.held, *plan.held], [*plan.stalled, *plan.stalled]
        return Plan(budget, chunks, plan.shape, plan.predicted_s, spares=spares, held=held, stalled=stalled)


def senseless(seed: int) -> Callable[..., BasePolicy]:
    """Return a factory of a senseless policy, for the registry."""
    return lambda model, *_: Senseless(model, seed)


def adversary(seed: int) -> Callable[..., BasePolicy]:
    """Return a factory of an adversary, for the registry."""
    return lambda model, *_: Adversary(model, seed)


def faulty(method: str, fails: Callable[[int], bool]) -> Callable[..., BasePolicy]:
    """Return a factory of Niyama's policy in which the calls of one method that `fails` picks raise.

    The calls are counted from 0 over all policies that the factory makes.
    """
    calls = itertools.count()

    def failing(policy: NiyamaPolicy, *args: Any, **kwargs: Any) -> Any:
        if fails(next(calls)):
            raise RuntimeError(f"{method} fails")
        return getattr(NiyamaPolicy, method)(policy, *args, **kwargs)

    def make(model: LatencyModel, anchor: Anchor, chunk: int | None) -> BasePolicy:
        return faulty_class(model, anchor)

    faulty_class: type[NiyamaPolicy] = type("Faulty", (NiyamaPolicy,), {method: failing})
    return make
