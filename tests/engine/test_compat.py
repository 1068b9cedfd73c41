"""Every name of vLLM's that we use exists in the vLLM that is installed, and looks as we think."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from tests.engine.rig import Ask, Rig
from tests.engine.workload import prompt

from niyama.engines.vllm import compat
from niyama.engines.vllm.prefix import PrefixCache
from niyama.settings import Settings

REQUEST_ATTRIBUTES = (
    "request_id",
    "arrival_time",
    "block_hashes",
    "get_finished_reason",
    "max_tokens",
    "next_decode_eligible_step",
    "num_computed_tokens",
    "num_prompt_tokens",
    "num_tokens",
    "priority",
    "sampling_params",
)
"""What our host reads or writes on a vLLM request."""

WRAPPED = {
    "add_request": ["request"],
    "schedule": [],
    "update_from_output": ["scheduler_output", "model_runner_output"],
    "get_grammar_bitmask": ["scheduler_output"],
    "_preempt_request": ["request"],
    "shutdown": [],
    "finish_requests": ["request_ids", "finished_status"],
}
"""Methods that we wrap or whose effect we follow, and their leading parameters."""


@pytest.fixture
def stock(rig: Rig) -> Any:
    return rig.use_stock()


@pytest.mark.engine
@pytest.mark.usefixtures("rig")
def test_installed_version_is_supported() -> None:
    import vllm

    compat.check_version(vllm.__version__, allow_untested=False)


@pytest.mark.engine
@pytest.mark.parametrize("name", compat.SCHEDULER_ATTRIBUTES)
def test_scheduler_has_the_attribute(stock: Any, name: str) -> None:
    assert hasattr(stock, name)


@pytest.mark.engine
@pytest.mark.usefixtures("rig")
@pytest.mark.parametrize("kind", ["scheduler.Scheduler", "async_scheduler.AsyncScheduler"])
@pytest.mark.parametrize("method", WRAPPED)
def test_wrapped_method_takes_what_we_pass(kind: str, method: str) -> None:
    module, _, name = kind.partition(".")
    scheduler = getattr(import_module(f"vllm.v1.core.sched.{module}"), name)
    parameters = list(inspect.signature(getattr(scheduler, method)).parameters.values())[1:]
    names = [parameter.name for parameter in parameters]
    expected = WRAPPED[method]
    assert names[: len(expected)] == expected
    # Called by vLLM with more, or by us with these alone: the others are optional.
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    assert set(required) <= {*expected, "timestamp"}


@pytest.mark.engine
def test_scheduler_has_two_queues_that_ours_can_replace(stock: Any) -> None:
    from vllm.v1.core.sched.request_queue import RequestQueue

    from niyama.engines.vllm.queue import PlannedQueue

    assert len(compat.queue_names(stock)) == 2
    for name in compat.queue_names(stock):
        assert isinstance(getattr(stock, name), RequestQueue)
    for name, method in inspect.getmembers(RequestQueue, inspect.isfunction):
        if not name.startswith("_"):
            ours = inspect.signature(getattr(PlannedQueue, name)).parameters
            assert list(ours) == list(inspect.signature(method).parameters), name
    assert not PlannedQueue.__abstractmethods__


@pytest.mark.engine
@pytest.mark.parametrize("name", REQUEST_ATTRIBUTES)
def test_request_has_the_attribute(rig: Rig, stock: Any, name: str) -> None:
    rig.submit(Ask("seen", prompt(20)))
    assert hasattr(rig.request("seen"), name)


@pytest.mark.engine
@pytest.mark.usefixtures("rig")
def test_outputs_have_the_fields_that_we_read() -> None:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput

    names = {field.name for field in dataclasses.fields(SchedulerOutput)}
    assert {"num_scheduled_tokens", "total_num_scheduled_tokens", "scheduled_spec_decode_tokens"} <= names
    names = {field.name for field in dataclasses.fields(ModelRunnerOutput)}
    assert {"sampled_token_ids", "req_id_to_index"} <= names


@pytest.mark.engine
def test_cached_tokens_are_told_before_the_request_runs(rig: Rig) -> None:
    scheduler = rig.use()
    rig.run([Ask("first", prompt(300, seed=3))])
    rig.submit(Ask("second", prompt(300, seed=3)))
    assert PrefixCache(scheduler, {}).watch(rig.request("second")) == 288
    rig.drain()
    assert rig.outputs["second"].num_cached_tokens == 288


@pytest.mark.parametrize("version", ["0.24.0", "0.34.0", "1.0.0", "0.34.0rc1+cpu"])
def test_unknown_version_is_refused_in_one_line(version: str) -> None:
    with pytest.raises(compat.UnsupportedVllmError) as caught:
        compat.check_version(version, allow_untested=False)
    text = str(caught.value)
    assert version in text
    assert "0.25 to 0.33" in text
    assert "--allow-untested-vllm" in text
    assert "\n" not in text


@pytest.mark.parametrize("version", ["0.24.0", "0.34.0", "nightly"])
def test_unknown_version_is_allowed_on_request(version: str) -> None:
    compat.check_version(version, allow_untested=True)


@pytest.mark.parametrize("version", ["0.25.0", "0.28.1", "0.32.0+cpu", "0.33.0.post1"])
def test_supported_version_passes(version: str) -> None:
    compat.check_version(version, allow_untested=False)


@pytest.mark.parametrize("version", ["", "dev", "0", "x.y.z"])
def test_unreadable_version_is_refused_in_one_line(version: str) -> None:
    with pytest.raises(compat.UnsupportedVllmError, match="is not a version we can read"):
        compat.check_version(version, allow_untested=False)


def test_engines_beside_each_other_write_logs_of_their_own() -> None:
    from niyama.engines.vllm.factory import with_own_logs

    settings = Settings(step_log="s.jsonl", decision_log=None)

    def logs(**fields: int) -> tuple[str | None, str | None]:
        config = SimpleNamespace(parallel_config=SimpleNamespace(**fields))
        found = with_own_logs(settings, config)
        return found.step_log, found.decision_log

    assert logs() == logs(data_parallel_index=0) == ("s.jsonl", None)
    assert logs(data_parallel_index=3) == ("s.jsonl.3", None)


def test_scheduler_without_a_lever_is_refused_by_name() -> None:
    with pytest.raises(compat.UnsupportedVllmError, match="its scheduler has no running, waiting"):
        compat.check_scheduler(object())


@pytest.mark.engine
def test_request_that_is_put_back_anywhere_has_not_started(rig: Rig, stock: Any) -> None:
    from niyama.engines.vllm.blocked import Blocked
    from niyama.engines.vllm.steering import Levers

    rig.submit(Ask("blocked", prompt(20)))
    request = rig.request("blocked")
    rig.abort("blocked")
    levers = Levers(stock, Blocked(stock, {}))
    first, second = levers.queues
    for back in (first, second):
        first.add_request(request)
        first.set_plan([request.request_id])
        assert first.pop_request() is request
        assert levers.popped() == {request.request_id: request}
        back.prepend_requests([request])
        assert levers.popped() == {}
        back.remove_request(request)
