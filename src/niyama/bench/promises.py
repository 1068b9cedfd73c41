"""The promises of a comparison: by a rule from measured step times, or from a book.

The rule makes the test equally hard on any machine:

    TBT  = 2.5 x the step with a 256-token chunk and 16 decodes      interactive
    TTFT = 40 x that step                                            interactive
    TTLT = 20 s                                                      batch
    TTLT = 60 s                                                      background
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from niyama.bench.carriers import make_carrier
from niyama.bench.client import run
from niyama.bench.planned import Planned
from niyama.bench.prompts import PromptMaker, Vocabulary, make_prompts
from niyama.bench.records import Record
from niyama.bench.sender import ClientError
from niyama.bench.target import Target
from niyama.qos import Importance, QosBook, QosClass, Slo

if TYPE_CHECKING:
    from aiohttp import ClientSession

TBT_STEPS, TTFT_STEPS = 2.5, 40.0
BATCH_TTLT_S, BACKGROUND_TTLT_S = 20.0, 60.0

NUM_DECODES, DECODE_PROMPT, DECODE_TOKENS = 16, 32, 4000
NUM_PROBES, PROBE_PROMPT, PROBE_EVERY_S, FIRST_PROBE_S = 15, 256, 0.5, 3.0

RULE_TOKENS = PROBE_PROMPT + NUM_DECODES
"""Tokens of the step that the rule measures."""

LOW_SUFFIX = "-low"
"""Every class has a twin of low importance with this at the end of its name."""


def rule_book(step_s: float) -> QosBook:
    """Return the book that follows from a step time, seconds > 0, to the microsecond (a QoS file's)."""
    return book_of(
        {
            "interactive": Slo(ttft_s=round(TTFT_STEPS * step_s, 6), tbt_s=round(TBT_STEPS * step_s, 6)),
            "batch": Slo(ttlt_s=BATCH_TTLT_S),
            "background": Slo(ttlt_s=BACKGROUND_TTLT_S),
        }
    )


def tight_book() -> QosBook:
    """Return the tight book: two interactive and two batch classes, shorter promises than the paper's."""
    return book_of(
        {
            "interactive": Slo(ttft_s=2.0, tbt_s=0.05),
            "assistant": Slo(ttft_s=4.0, tbt_s=0.1),
            "batch": Slo(ttlt_s=60.0),
            "background": Slo(ttlt_s=600.0),
        }
    )


def book_of(slos: dict[str, Slo]) -> QosBook:
    """Return a book of these classes, the first the default one."""
    classes = {name: QosClass(name, slo) for name, slo in slos.items()}
    return QosBook(default=next(iter(classes)), classes=MappingProxyType(classes))


def with_low_twins(book: QosBook) -> QosBook:
    """Return the book with a twin of low importance for every class that is not.

    A server takes importance from the class, so requests of low importance ask for the twin.
    """
    classes = dict(book.classes)
    for name, qos_class in book.classes.items():
        twin = name + LOW_SUFFIX
        if qos_class.importance is not Importance.LOW and twin not in classes:
            classes[twin] = replace(qos_class, name=twin, importance=Importance.LOW)
    return replace(book, classes=MappingProxyType(classes))


async def measure_step_s(session: ClientSession, target: Target, vocabulary: Vocabulary) -> float:
    """Return the step time with a 256-token chunk and 16 decodes, seconds, as a client sees it.

    While 16 requests decode, a prompt of 256 tokens comes every half second; the longest gap of the
    decodes while it is computed is that step. The median over the prompts is returned.

    Args:
        session: From `open_session`.
        target: A server that is idle and takes at least `RULE_TOKENS` per step.
        vocabulary: What prompts are made of there.

    Raises:
        ClientError: a request failed, or no prompt could be seen in the gaps.
    """
    ends_at = FIRST_PROBE_S + NUM_PROBES * PROBE_EVERY_S + 1.0
    # The context bounds how long a decode can last.
    num_tokens = min(DECODE_TOKENS, (target.max_model_len or 8192) - DECODE_PROMPT - 1)
    decodes = [
        Planned(
            id=f"decode-{number}",
            due_at=0.0,
            num_prompt_tokens=DECODE_PROMPT,
            num_output_tokens=num_tokens,
            leave_after_s=ends_at,
        )
        for number in range(NUM_DECODES)
    ]
    probes = [
        Planned(
            id=f"probe-{number}",
            due_at=FIRST_PROBE_S + number * PROBE_EVERY_S,
            num_prompt_tokens=PROBE_PROMPT,
            num_output_tokens=1,
        )
        for number in range(NUM_PROBES)
    ]
    requests = [*decodes, *probes]
    prompts = make_prompts(PromptMaker(target, vocabulary, seed=7), requests)
    carry = make_carrier("none", book_of({"any": Slo()}))
    flight = await run(session, target, requests, prompts, carry, run_id="steptime")
    for record in flight.records:
        if record.error is not None:
            raise ClientError(f"while measuring the step time: {record.error}")
    return step_s(flight.records[0], flight.records[NUM_DECODES:])


def step_s(decode: Record, probes: Sequence[Record]) -> float:
    """Return the median over the probes of the longest gap of a decode while one was computed, seconds.

    Raises:
        ClientError: the decode has no gaps there.
    """
    longest: list[float] = []
    for probe in probes:
        if probe.sent_at is None or probe.first_at is None:
            continue
        gaps = [b - a for a, b in pairwise(decode.token_at) if b >= probe.sent_at and a <= probe.first_at]
        if gaps:
            longest.append(max(gaps))
    if not longest:
        raise ClientError("while measuring the step time: the decodes ended before the first prompt came")
    return statistics.median(longest)
