from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.bench.sseserver import Reply, prompt_tokens, sse_server

from niyama.bench.client import run_async
from niyama.bench.prompts import PromptMaker, Vocabulary, learn_vocabulary
from niyama.bench.sender import open_session
from niyama.bench.target import Endpoint, Target, TargetError, find_target

IDS = Target(url="http://nowhere", model="tiny")


def learn(
    url: str, endpoint: Endpoint, change: Callable[[Target], Target] = lambda t: t
) -> tuple[Target, Vocabulary]:
    async def work() -> tuple[Target, Vocabulary]:
        async with open_session() as session:
            target = change(await find_target(session, url, model=None, endpoint=endpoint, api_key=None))
            return target, await learn_vocabulary(session, target)

    return run_async(work())


def body(target: Target, prompt: object) -> dict[str, Any]:
    return {"messages" if target.endpoint == "chat" else "prompt": prompt}


@pytest.mark.parametrize(
    ("endpoint", "change"),
    [
        ("completions", lambda target: target),
        ("completions", lambda target: replace(target, takes_token_ids=False)),
        ("chat", lambda target: target),
        # Without /tokenize the lengths come from the usage of one-token answers.
        ("chat", lambda target: replace(target, has_tokenize=False)),
    ],
)
def test_prompts_are_exactly_as_long_as_asked(endpoint: Endpoint, change: Callable[[Target], Target]) -> None:
    """The server's tokenizer splits long words and counts some words double at the start of a text."""
    with sse_server() as server:
        target, words = learn(server.url, endpoint, change)
    maker = PromptMaker(target, words, seed=1)
    for length in (words.min_tokens, words.min_tokens + 1, 50, 517):
        for _ in range(20):
            assert prompt_tokens(body(target, maker.make(length))) == length


def test_chat_vocabulary_has_no_word_of_two_tokens() -> None:
    with sse_server() as server:
        _, words = learn(server.url, "chat")
    assert len(words.words) > 100
    assert all(len(word) <= 6 for word in words.words)
    assert len({length for _, length in words.first_words}) == 2


def test_server_that_does_not_count_prompts_cannot_get_exact_ones() -> None:
    async def script(reply: Reply) -> None:
        await reply.send(b'data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\n')
        await reply.end()

    said = "does not say how long a prompt is"
    with sse_server(is_vllm=False, script=script) as server, pytest.raises(TargetError, match=said):
        learn(server.url, "completions")


def prompts(num: int, length: int, shared_prefix: float = 0, seed: int = 0) -> list[Sequence[int]]:
    maker = PromptMaker(IDS, Vocabulary(token_ids=tuple(range(300))), seed=seed, shared_prefix=shared_prefix)
    made = [maker.make(length) for _ in range(num)]
    assert all(isinstance(prompt, list) for prompt in made)
    return made  # type: ignore[return-value]


def test_prompts_differ_from_the_first_token_on() -> None:
    made = prompts(300, 40)
    assert len({prompt[0] for prompt in made}) == 300
    assert len({tuple(prompt[:16]) for prompt in prompts(3000, 40)}) == 3000


def test_same_seed_same_prompts() -> None:
    assert prompts(5, 40) == prompts(5, 40)
    assert prompts(5, 40) != prompts(5, 40, seed=1)


@pytest.mark.parametrize(("shared_prefix", "num_shared"), [(10, 10), (0.5, 20), (1000, 39)])
def test_shared_prefix_is_shared_and_the_rest_is_not(shared_prefix: float, num_shared: int) -> None:
    made = prompts(50, 40, shared_prefix)
    assert {len(prompt) for prompt in made} == {40}
    assert len({tuple(prompt[:num_shared]) for prompt in made}) == 1
    assert len({prompt[num_shared] for prompt in made}) == 50


def test_longer_prompts_share_the_prefix_of_shorter_ones() -> None:
    maker = PromptMaker(IDS, Vocabulary(token_ids=tuple(range(300))), seed=0, shared_prefix=30)
    short, long = maker.make(20), maker.make(200)
    assert isinstance(short, list)
    assert isinstance(long, list)
    assert long[:19] == short[:19]


def test_shared_words_of_chats_leave_the_length_alone() -> None:
    with sse_server() as server:
        target, words = learn(server.url, "chat")
    maker = PromptMaker(target, words, seed=0, shared_prefix=0.5)
    texts = []
    for _ in range(10):
        prompt = maker.make(60)
        assert isinstance(prompt, list)
        (message,) = prompt
        assert prompt_tokens(body(target, [message])) == 60
        texts.append(message["content"].split(" "))
    assert len({tuple(words[:20]) for words in texts}) == 1
    assert len({tuple(words[-20:]) for words in texts}) == 10
