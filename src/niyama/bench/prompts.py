"""Prompts of exactly the asked number of tokens, each different from its first token on.

A server that caches prefixes must not look faster than it is, so no two prompts begin alike unless a
shared prefix is asked for. All prompts are made before the run starts.

Completions take token ids, drawn from what the server's tokenizer makes of common words. Chats, and
servers that take no ids, get words of which each is one token, as many as the template leaves room
for; what the template adds is measured with each word that can come first.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from niyama.bench.planned import Planned
from niyama.bench.target import Target, TargetError, get_json, try_request
from niyama.bench.words import WORDS
from niyama.wording import shown
from niyama.workload.streams import stream

if TYPE_CHECKING:
    from aiohttp import ClientSession

T = TypeVar("T")

Count = Callable[[str], Awaitable[int]]
"""Tokens of the prompt that the server makes of a text."""

MAX_FIRST_WORDS = 48
"""So many words can come first; more would only cost requests before the run."""

MIN_WORDS = 16
"""With fewer words of one token the prompts would be too much alike."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What prompts are made of.

    Attributes:
        token_ids: Ids to draw from; empty where prompts are text.
        words: Words of one token each, after a blank.
        first_words: Words that can come first, and the tokens of a prompt of that word alone,
            chat template included.
    """

    token_ids: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    first_words: tuple[tuple[str, int], ...] = ()

    @property
    def min_tokens(self) -> int:
        """Tokens of the shortest prompt."""
        return 1 if self.token_ids else max(length for _, length in self.first_words)


async def learn_vocabulary(session: ClientSession, target: Target) -> Vocabulary:
    """Return what prompts for a server are made of, found with its own tokenizer.

    Costs some hundred short requests to `/tokenize`; of a server without it, answers of one token.

    Raises:
        TargetError: the server's tokenizer splits nearly every common word.
    """
    if target.endpoint == "completions" and target.takes_token_ids and target.has_tokenize:
        return Vocabulary(token_ids=await _token_ids(session, target))
    count = _counter(session, target)
    anchor = WORDS[0]
    base = await count(anchor)
    words = await _single_token_words(count, anchor, base, WORDS[1:])
    if len(words) < MIN_WORDS:
        raise TargetError(f"{target.url}: its tokenizer splits common words; allowed: --endpoint completions")
    first = [(word, await count(f"{word} {words[0]}") - 1) for word in words[:MAX_FIRST_WORDS]]
    return Vocabulary(words=tuple(words), first_words=tuple(first))


async def _token_ids(session: ClientSession, target: Target) -> tuple[int, ...]:
    body = {"model": target.model, "prompt": " ".join(WORDS), "add_special_tokens": False}
    _, answer = await get_json(session, f"{target.url}/tokenize", target.headers, body)
    ids = answer.get("tokens") if isinstance(answer, dict) else None
    if not (isinstance(ids, list) and all(isinstance(token, int) for token in ids)):
        raise TargetError(f"{target.url}/tokenize: {shown(ids)} are no tokens")
    # Without the ends: a tokenizer that does not know add_special_tokens puts its own there.
    return tuple(sorted(set(ids[1:-1])))


def _counter(session: ClientSession, target: Target) -> Count:
    """Return the function that counts a prompt's tokens by asking the server."""

    async def by_tokenizer(text: str) -> int:
        chat = {"messages": [{"role": "user", "content": text}]}
        body = {"model": target.model, **(chat if target.endpoint == "chat" else {"prompt": text})}
        status, answer = await get_json(session, f"{target.url}/tokenize", target.headers, body)
        count = answer.get("count") if isinstance(answer, dict) else None
        if not isinstance(count, int):
            raise TargetError(f"{target.url}/tokenize: HTTP {status}, no count of tokens")
        return count

    async def by_answer(text: str) -> int:
        answer = await try_request(session, target, target.body(as_prompt(target, text), 1))
        if isinstance(answer, str) or answer.num_prompt_tokens is None:
            why = answer if isinstance(answer, str) else "the server does not say how long a prompt is"
            raise TargetError(f"{target.url}{target.path}: {why}")
        return answer.num_prompt_tokens

    return by_tokenizer if target.has_tokenize else by_answer


def as_prompt(target: Target, text: str) -> object:
    """Return a text in the form in which the endpoint takes it."""
    return [{"role": "user", "content": text}] if target.endpoint == "chat" else text


async def _single_token_words(count: Count, anchor: str, base: int, words: Sequence[str]) -> list[str]:
    """Return the words that add one token each; asks about log n times for every bad one."""
    if await count(" ".join((anchor, *words))) == base + len(words):
        return list(words)
    if len(words) == 1:
        return []
    half = len(words) // 2
    return [
        *await _single_token_words(count, anchor, base, words[:half]),
        *await _single_token_words(count, anchor, base, words[half:]),
    ]


class PromptMaker:
    """Makes prompts from a vocabulary; equal seeds make equal prompts."""

    def __init__(
        self, target: Target, vocabulary: Vocabulary, *, seed: int, shared_prefix: float = 0
    ) -> None:
        """Take what to make them of.

        Args:
            target: In whose form they are.
            vocabulary: From `learn_vocabulary`.
            seed: Of all draws.
            shared_prefix: Leading tokens that all prompts have in common if >= 1; below 1 the share of
                each prompt. The last token of a prompt is always its own.
        """
        self._target = target
        self._vocabulary = vocabulary
        self._shared_prefix = shared_prefix
        self._rng = stream(seed, "prompts")
        self._shared_rng = stream(seed, "shared prefix")
        self._shared: list[int] = []
        self._shared_words: list[str] = []
        self._num_made = 0

    def make(self, num_tokens: int) -> object:
        """Return a prompt of so many tokens, at least the vocabulary's shortest."""
        num_shared = self._num_shared(num_tokens)
        self._num_made += 1
        if self._vocabulary.token_ids:
            ids = self._vocabulary.token_ids
            own = self._own(ids, num_tokens - num_shared)
            return [*_grown(self._shared, ids, num_shared, self._shared_rng), *own]
        return as_prompt(self._target, self._text(num_tokens, num_shared))

    def _num_shared(self, num_tokens: int) -> int:
        share = self._shared_prefix
        wanted = round(share * num_tokens) if share < 1 else int(share)
        return max(0, min(wanted, num_tokens - 1))

    def _own(self, ids: Sequence[int], num_tokens: int) -> list[int]:
        # The first token goes round the vocabulary, so neighbours in time differ there already.
        first = ids[self._num_made % len(ids)]
        return [first, *self._rng.choices(ids, k=num_tokens - 1)]

    def _text(self, num_tokens: int, num_shared: int) -> str:
        words, firsts = self._vocabulary.words, self._vocabulary.first_words
        first, length = firsts[0 if num_shared else self._num_made % len(firsts)]
        num_words = max(0, num_tokens - length)
        num_common = max(0, min(num_shared - length, num_words - 1))
        common = _grown(self._shared_words, words, num_common, self._shared_rng)
        return " ".join([first, *common, *self._rng.choices(words, k=num_words - num_common)])


def _grown(shared: list[T], items: Sequence[T], num: int, rng: random.Random) -> list[T]:
    """Return the first so many of the common items, drawing more where there are too few."""
    shared += rng.choices(items, k=max(0, num - len(shared)))
    return shared[:num]


def make_prompts(maker: PromptMaker, requests: Iterable[Planned]) -> dict[str, object]:
    """Return the prompt of every request, by its id."""
    return {request.id: maker.make(request.num_prompt_tokens) for request in requests}
