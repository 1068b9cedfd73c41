"""The largest prefill chunk that fits a time, for any model whose prediction grows with the chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from niyama.compiled import mypyc_attr
from niyama.scheduling.policy import BatchShape


@mypyc_attr(allow_interpreted_subclasses=True)
class ChunkSearch(ABC):
    """A step-time model that can be asked backwards: how many tokens fit?

    Subclasses promise that `predict_s` plus its margin never falls when a chunk grows.
    """

    @abstractmethod
    def predict_s(self, shape: BatchShape) -> float:
        """Return the expected duration of a step of this shape, seconds, > 0, finite."""

    @abstractmethod
    def margin_s(self, predicted_s: float) -> float:
        """Return the time to add so that few steps take longer, seconds, >= 0."""

    @abstractmethod
    def observe(self, shape: BatchShape, duration_s: float) -> None:
        """Learn from a step that took `duration_s` seconds, or ignore it."""

    @abstractmethod
    def stats(self) -> Mapping[str, object]:
        """Return what the model is and how well it does, for state pages and logs."""

    def safe_s(self, shape: BatchShape) -> float:
        """Return prediction plus margin, seconds: the time that few such steps exceed."""
        predicted_s = self.predict_s(shape)
        return predicted_s + self.margin_s(predicted_s)

    def largest_chunk(self, shape: BatchShape, context: int, limit_s: float, max_tokens: int) -> int:
        """Return the most prefill tokens that one more chunk may have within a time.

        Args:
            shape: What the step holds already.
            context: Tokens of the chunk's request that are computed before it, >= 0.
            limit_s: Time for the whole step, seconds; may be negative or infinite.
            max_tokens: Upper bound of the answer, >= 0.

        Returns:
            The largest n in 0..max_tokens with ``safe_s(shape.with_chunk(n, context)) <= limit_s``;
            0 when no chunk fits, also when `shape` alone takes longer.

        Cost: two or three predictions if `_guess` is good, else O(log max_tokens).
        """
        if max_tokens <= 0:
            return 0
        guess = self._guess(shape, context, limit_s, max_tokens)
        if guess is not None and self._is_last(guess, shape, context, limit_s, max_tokens):
            return guess
        if self.safe_s(shape.with_chunk(1, context)) > limit_s:
            return 0
        if self.safe_s(shape.with_chunk(max_tokens, context)) <= limit_s:
            return max_tokens
        fits, too_many = 1, max_tokens
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.safe_s(shape.with_chunk(middle, context)) <= limit_s:
                fits = middle
            else:
                too_many = middle
        return fits

    def efficient_chunk(self, shape: BatchShape, context: int, num_tokens: int) -> int:
        """Return the chunk of 1 to `num_tokens` tokens whose time is best spent, if unused time is not lost.

        Never falls when `num_tokens` grows. Where each further token costs the same, that is the largest
        one; only a model whose times rise in stairs says otherwise.
        """
        return num_tokens

    def _guess(self, shape: BatchShape, context: int, limit_s: float, max_tokens: int) -> int | None:
        """Return what `largest_chunk` is likely to be, in 0..max_tokens; None for no idea."""
        return None

    def _is_last(self, chunk: int, shape: BatchShape, context: int, limit_s: float, max_tokens: int) -> bool:
        """Whether a chunk fits and one more token does not; 0 fits always."""
        if chunk > 0 and self.safe_s(shape.with_chunk(chunk, context)) > limit_s:
            return False
        return chunk == max_tokens or self.safe_s(shape.with_chunk(chunk + 1, context)) > limit_s
