"""The tokens that an emulated device answers with: words, as many as asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_WORDS = 1024
"""Words to choose from; enough for answers to differ."""

_STRIDE = 7919
"""A prime step through the words, so that neighbours in an answer differ."""


class Vocabulary:
    """Chooses tokens by request and place, so that a repeated run gives the same answers.

    Args:
        words: Ids of tokens that decode to plain words, none of which ends an answer; not empty.
        end_ids: Ids of tokens that end one.
        size: How many ids there are.
    """

    def __init__(self, words: Sequence[int], end_ids: frozenset[int], size: int) -> None:
        self._words = list(words)
        self._end_ids = end_ids
        self._size = size

    def token(self, salt: int, place: int) -> int:
        """Return the token at a place of an answer; never an end, so the answer is as long as asked."""
        return self._words[(salt + place * _STRIDE) % len(self._words)]

    def allowed_token(
        self, bits: npt.NDArray[np.int32], salt: int, place: int, *, may_end: bool
    ) -> int | None:
        """Return a token that a grammar allows: an end as soon as it may, else one by request and place.

        Args:
            bits: The grammar's bit mask, one bit per id.
            salt: See `token`.
            place: See `token`.
            may_end: Whether the answer has its least number of tokens.

        Returns:
            The token, or None if the grammar allows none.
        """
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[: self._size])
        is_end = np.isin(allowed, list(self._end_ids))
        ends, others = allowed[is_end], allowed[~is_end]
        chosen = ends if ends.size and (may_end or not others.size) else others
        return int(chosen[(salt + place * _STRIDE) % chosen.size]) if chosen.size else None

    def alternatives(self, token: int, number: int) -> list[int]:
        """Return that many different ids other than `token`, or all there are."""
        return [i for i in range(min(number + 1, self._size)) if i != token][:number]

    @property
    def logprob(self) -> float:
        """Log probability of every token: all are equally likely."""
        return -math.log(self._size)


def make_vocabulary(tokenizer: Any, end_ids: frozenset[int], size: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer; without one, or if it has no plain words, of all ids.

    Words are whole ASCII words: vLLM holds back text whose last character is incomplete, and a
    stream would then skip tokens.
    """
    ids = [i for i in range(size) if i not in end_ids]
    words: list[int] = []
    if tokenizer is not None:
        special = set(tokenizer.all_special_ids)
        for token_id in ids:
            text = "" if token_id in special else tokenizer.decode([token_id])
            if len(text.strip()) > 1 and text.isascii() and text.strip().isalpha():
                words.append(token_id)
                if len(words) == MAX_WORDS:
                    break
    return Vocabulary(words or ids, end_ids, size)
