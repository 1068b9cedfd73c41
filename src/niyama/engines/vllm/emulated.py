"""A vLLM worker that takes a GPU's time: `--worker-cls niyama.engines.vllm.emulated.EmulatedWorker`.

No model is loaded and no KV is stored. A step waits as long as a latency profile says for its true
batch and puts out one token per decode and per finished prefill; all else is vLLM's own: HTTP,
scheduler, KV cache manager, output processing. What to imitate comes from `niyama.emulation`.
"""

from __future__ import annotations

import json
import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import (
    EMPTY_MODEL_RUNNER_OUTPUT,
    AsyncModelRunnerOutput,
    LogprobsLists,
    LogprobsTensors,
    ModelRunnerOutput,
)
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

from niyama.emulation import Emulation, EmulationError
from niyama.engines.vllm.emulatedbatch import Batch, LiveRequests
from niyama.engines.vllm.emulateddevice import Device, Run
from niyama.engines.vllm.emulatedtokens import Vocabulary, make_vocabulary
from niyama.latency import get_profile

logger = logging.getLogger(__name__)


class _Launched(NamedTuple):
    """A step on the device whose tokens are not chosen yet."""

    batch: Batch
    run: Run


class EmulatedWorker(WorkerBase):
    """Stands in for a GPU and the model on it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_unsupported(self.vllm_config)
        self.emulation = Emulation.from_environment(self.vllm_config.additional_config)
        if self.emulation.async_scheduling:
            # vLLM's CPU platform turns this off because a CPU computes in the calling thread.
            # This device does not. Only seen by a scheduler that is in this process.
            self.scheduler_config.async_scheduling = True
        self._profile = get_profile(self.emulation.profile)
        self._device = Device()
        self._requests = LiveRequests()
        self._launched: _Launched | None = None
        path = self.emulation.step_log
        self._log = open(path, "a", buffering=1, encoding="utf-8") if path else None  # noqa: SIM115
        self._vocabulary: Vocabulary | None = None

    # Start-up ----------------------------------------------------------------------------------

    def init_device(self) -> None:
        """Say what is imitated."""
        self.device = torch.device("cpu")
        logger.info("Niyama emulates %s, %g times faster", self.emulation.profile, self.emulation.speedup)

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load no weights; choose the words to answer with."""
        config = self.model_config
        tokenizer = cached_tokenizer_from_config(config)
        end_ids = _end_ids(config, tokenizer)
        self._vocabulary = make_vocabulary(tokenizer, end_ids, int(config.get_vocab_size()))

    def get_kv_cache_spec(self) -> dict[str, Any]:
        """Return one layer with the smallest KV there is: only the number of blocks matters."""
        return {"emulated": self._kv_spec()}

    def _kv_spec(self) -> Any:
        return FullAttentionSpec(
            block_size=int(self.cache_config.block_size), num_kv_heads=1, head_size=1, dtype=torch.float32
        )

    def determine_available_memory(self) -> int:
        """Return the bytes that hold the emulated device's KV tokens; nothing is allocated."""
        spec = self._kv_spec()
        return int(spec.page_size_bytes) * max(1, self.emulation.num_kv_tokens // int(spec.block_size))

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        """Store no KV."""

    def initialize_cache(self, num_gpu_blocks: int, num_cpu_blocks: int) -> None:
        """Store no KV."""

    def compile_or_warm_up_model(self) -> Any:
        """Compile nothing."""
        return CompilationTimes(language_model=0.0, encoder=0.0)

    def update_max_model_len(self, max_model_len: int) -> None:
        """Take note of a context that vLLM made shorter to fit the KV cache."""
        self.model_config.max_model_len = max_model_len

    def get_supported_tasks(self) -> tuple[str, ...]:
        """Only text is generated."""
        return ("generate",)

    # A step ------------------------------------------------------------------------------------

    def execute_model(self, scheduler_output: Any) -> Any:
        """Launch a step; its tokens come from `sample_tokens`, unless it is empty."""
        batch = self._requests.take_in(scheduler_output)
        if not scheduler_output.total_num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        duration_s = self._profile.predict_s(batch.shape) / self.emulation.speedup
        self._launched = _Launched(batch, self._device.launch(duration_s))
        return None

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Return the launched step's tokens, to be had when the step has ended."""
        launched, self._launched = self._launched, None
        if launched is None:
            return EMPTY_MODEL_RUNNER_OUTPUT
        tokens = self._tokens(launched.batch)
        if grammar_output is not None:
            self._obey(grammar_output, launched.batch, tokens)
        request_ids = launched.batch.request_ids
        output = ModelRunnerOutput(
            req_ids=request_ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(request_ids)},
            sampled_token_ids=[[tokens[i]] if i in tokens else [] for i in request_ids],
            logprobs=self._logprobs(request_ids, tokens),
            prompt_logprobs_dict=self._prompt_logprobs(launched.batch),
        )
        return _Awaited(self, launched, output)

    def finish(self, launched: _Launched) -> None:
        """Wait for a step's end and log it."""
        noticed_at = self._device.wait(launched.run)
        if self._log is not None:
            run = launched.run
            line = {
                "started_at": run.starts_at,
                "asked_s": run.ends_at - run.starts_at,
                "took_s": noticed_at - run.starts_at,
                **launched.batch.shape._asdict(),
            }
            self._log.write(json.dumps(line) + "\n")

    def _tokens(self, batch: Batch) -> dict[str, int]:
        assert self._vocabulary is not None
        choose = self._vocabulary.token
        return {e.request_id: choose(self._requests[e.request_id].salt, e.place) for e in batch.emissions}

    def _obey(self, grammar_output: Any, batch: Batch, tokens: dict[str, int]) -> None:
        """Replace the tokens of requests with structured output by allowed ones."""
        assert self._vocabulary is not None
        place = {e.request_id: e.place for e in batch.emissions}
        rows = zip(grammar_output.structured_output_request_ids, grammar_output.grammar_bitmask, strict=False)
        for request_id, bits in rows:
            if request_id not in place:
                continue
            live = self._requests[request_id]
            token = self._vocabulary.allowed_token(
                bits, live.salt, place[request_id], may_end=place[request_id] >= live.min_tokens
            )
            if token is not None:
                tokens[request_id] = token

    def _logprobs(self, request_ids: list[str], tokens: dict[str, int]) -> Any:
        """Return equal probabilities for all tokens if somebody asks for logprobs, else None."""
        wanted = [n for i in request_ids if (n := self._requests[i].num_logprobs) is not None]
        if not wanted:
            return None
        number = max(wanted) if min(wanted) >= 0 else -1  # -1 asks for the whole vocabulary
        return LogprobsLists(*self._rows([tokens.get(i, 0) for i in request_ids], number))

    def _prompt_logprobs(self, batch: Batch) -> dict[str, Any]:
        """Return the same of the prompts that end in this step and whose logprobs are wanted."""
        found: dict[str, Any] = {}
        for request_id, place in batch.emissions:
            live = self._requests[request_id]
            if place == 0 and live.scored_prompt is not None:
                rows = self._rows(live.scored_prompt[1:], live.num_prompt_logprobs)
                found[request_id] = LogprobsTensors(*map(torch.from_numpy, rows))
        return found

    def _rows(self, tokens: list[int], number: int) -> tuple[Any, Any, Any]:
        """Return ids, logprobs and ranks of tokens and of `number` alternatives each."""
        assert self._vocabulary is not None
        size = int(self.model_config.get_vocab_size())
        number = size - 1 if number < 0 else min(number, size - 1)
        ids = [[token, *self._vocabulary.alternatives(token, number)] for token in tokens]
        return (
            np.array(ids, dtype=np.int32).reshape(len(tokens), number + 1),
            np.full((len(tokens), number + 1), self._vocabulary.logprob, dtype=np.float32),
            np.ones(len(tokens), dtype=np.int32),
        )

    # The rest of a worker ----------------------------------------------------------------------

    def execute_dummy_batch(self) -> None:
        """Keep step with other engines; takes no time."""

    def take_draft_token_ids(self) -> None:
        """Draft nothing."""
        return None

    def synchronize_device(self) -> None:
        """Leave steps in flight as they are."""

    def check_health(self) -> None:
        """Nothing can break."""

    def shutdown(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
            self._log = None


class _Awaited(AsyncModelRunnerOutput):
    """A step's output, to be had when the step has ended."""

    def __init__(self, worker: EmulatedWorker, launched: _Launched, output: Any) -> None:
        self._worker = worker
        self._launched = launched
        self._output = output

    def get_output(self) -> Any:
        """Wait for the end."""
        self._worker.finish(self._launched)
        return self._output


def refuse_unsupported(vllm_config: Any) -> None:
    """Refuse what a worker that computes nothing cannot stand in for.

    Raises:
        EmulationError: which of vLLM's options.
    """
    found = {
        "--speculative-config": vllm_config.speculative_config is not None,
        "--enable-lora": vllm_config.lora_config is not None,
        "--kv-transfer-config": vllm_config.kv_transfer_config is not None,
        "more than one device per engine": vllm_config.parallel_config.world_size > 1,
        "a model that does not generate text": vllm_config.model_config.runner_type != "generate",
    }
    for name, is_given in found.items():
        if is_given:
            raise EmulationError(f"emulation: {name} is not supported; allowed: vLLM without it")


def _end_ids(model_config: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end an answer, by the model's configuration and its tokenizer."""
    ids: set[int] = set()
    for value in (
        getattr(tokenizer, "eos_token_id", None),
        getattr(model_config.hf_config, "eos_token_id", None),
        model_config.try_get_generation_config().get("eos_token_id"),
    ):
        ids |= {value} if isinstance(value, int) else set(value or ())
    return frozenset(ids)
