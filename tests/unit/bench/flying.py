"""Runs of the load client against a server of the tests."""

from __future__ import annotations

from collections.abc import Sequence

from tests.unit.bench.sseserver import SseServer, answer_fully

from niyama.bench.carriers import make_carrier
from niyama.bench.client import Flight, Progress, Rules, Settle, run, run_async
from niyama.bench.planned import Planned
from niyama.bench.sender import open_session
from niyama.bench.target import Endpoint, find_target
from niyama.qos import paper_book

SLACK = Rules(max_lag_s=60.0)


def planned(num: int, gap_s: float = 0.0, num_output_tokens: int = 3) -> list[Planned]:
    return [
        Planned(
            id=f"r{n}",
            due_at=n * gap_s,
            num_prompt_tokens=4,
            num_output_tokens=num_output_tokens,
            qos_class="interactive",
        )
        for n in range(num)
    ]


def fly(
    server: SseServer,
    requests: Sequence[Planned],
    *,
    rules: Rules = SLACK,
    progress: Progress | None = None,
    settle: Settle | None = None,
    endpoint: Endpoint = "completions",
    key: str | None = None,
) -> Flight:
    """Send the requests and return the run; what the server saw of the probes is forgotten."""

    async def work() -> Flight:
        async with open_session() as session:
            script, server.script = server.script, answer_fully
            target = await find_target(session, server.url, model=None, endpoint=endpoint, api_key=key)
            server.script = script
            server.seen.clear()
            server.seen_headers.clear()
            prompt: object = [5, 6, 7, 8] if target.takes_token_ids else "one two three"
            if endpoint == "chat":
                prompt = [{"role": "user", "content": "one two"}]
            prompts = {request.id: prompt for request in requests}
            carry = make_carrier("xargs", paper_book())
            return await run(
                session,
                target,
                requests,
                prompts,
                carry,
                carrier="xargs",
                rules=rules,
                progress=progress,
                settle=settle,
            )

    return run_async(work())
