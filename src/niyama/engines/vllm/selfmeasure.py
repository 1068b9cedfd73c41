"""A short self-measurement before the server takes traffic: the step-time model's first estimate.

A few requests of our own run through the engine as any others would, with prompts of growing length
and a small batch of decodes. They are marked, so that no metric of ours and no estimate
of output lengths counts them; vLLM's own metrics and the step log do.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from niyama.engines.vllm.view import PROBE_KEY, PROBE_PREFIX

logger = logging.getLogger(__name__)

CHUNKS = (32, 256, 1024, 64, 512, 2048, 128, 256, 1024)
NUM_DECODES = 16
NUM_OUTPUT_TOKENS = 12
LIMIT_S = 8.0
"""Most time spent on it; a slow machine learns the rest from traffic."""


async def measure(engine_client: Any) -> None:
    """Run the probes, one prompt length after the other, then a batch of decodes.

    Never raises: without an estimate the model starts from its prior.

    Args:
        engine_client: vLLM's `AsyncLLM`.
    """
    try:
        await asyncio.wait_for(_run(engine_client), LIMIT_S)
    except TimeoutError:
        logger.info("Niyama: self-measurement stopped after %.0f s", LIMIT_S)
    except Exception:
        logger.warning("Niyama: self-measurement failed; the first steps will teach instead", exc_info=True)


async def _run(engine_client: Any) -> None:
    config = engine_client.vllm_config
    longest = min(
        int(config.scheduler_config.max_num_batched_tokens),
        int(config.model_config.max_model_len) - NUM_OUTPUT_TOKENS - 1,
    )
    vocabulary = int(config.model_config.get_vocab_size())
    for number, length in enumerate(CHUNKS):
        if length <= longest:
            await _probe(engine_client, f"chunk-{number}", length, 2, vocabulary)
    num_decodes = min(NUM_DECODES, int(config.scheduler_config.max_num_seqs))
    names = [f"decode-{number}" for number in range(num_decodes)]
    await asyncio.gather(
        *(_probe(engine_client, name, min(32, longest), NUM_OUTPUT_TOKENS, vocabulary) for name in names)
    )


async def _probe(
    engine_client: Any, name: str, num_tokens: int, num_output_tokens: int, vocabulary: int
) -> None:
    """Run one marked request to its end; its prompt shares no prefix with any other."""
    from vllm import SamplingParams

    params = SamplingParams(
        max_tokens=num_output_tokens, ignore_eos=True, temperature=0.0, extra_args={PROBE_KEY: 1}
    )
    salt = sum(name.encode())
    prompt = [(salt * 7919 + place * 31 + place * place) % vocabulary for place in range(num_tokens)]
    async for _ in engine_client.generate({"prompt_token_ids": prompt}, params, f"{PROBE_PREFIX}{name}"):
        pass
