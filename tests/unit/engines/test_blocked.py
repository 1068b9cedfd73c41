"""Who cannot start: by adapters, which is known, and by what was seen, which is tried again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from niyama.engines.vllm.blocked import MAX_PAUSE_STEPS, MAX_SPACING_STEPS, Blocked
from niyama.scheduling.policy import BatchShape, Chunk, Plan


def request(request_id: str, adapter: int = 0) -> Any:
    lora_request = SimpleNamespace(lora_int_id=adapter) if adapter else None
    return SimpleNamespace(request_id=request_id, lora_request=lora_request)


def engine(*requests: Any, running: int = 0, max_loras: int = 0) -> Blocked:
    lora_config = SimpleNamespace(max_loras=max_loras) if max_loras else None
    scheduler = SimpleNamespace(running=list(requests[:running]), lora_config=lora_config)
    return Blocked(scheduler, {r.request_id: r for r in requests})


def plan(*request_ids: str) -> Plan:
    return Plan(512, [Chunk(i, 10) for i in request_ids], BatchShape(0, 0), 0.1)


def fail(blocked: Blocked, *request_ids: str) -> None:
    """The engine takes requests and puts them back."""
    blocked.learn(plan(*request_ids), ran=(), put_back=request_ids, started=(), has_room=True)


def steps_until_tried(blocked: Blocked, request_id: str) -> int:
    for number in range(1, 1000):
        blocked.begin_step()
        if request_id not in blocked:
            return number
    raise AssertionError(f"{request_id} is never tried again")


def test_pause_doubles_with_every_try_in_vain() -> None:
    blocked = engine(request("a"))
    assert "a" not in blocked
    pauses = []
    for _ in range(8):
        fail(blocked, "a")
        pauses.append(steps_until_tried(blocked, "a") - 1)
    assert pauses == [1, 2, 4, 8, 16, 32, MAX_PAUSE_STEPS, MAX_PAUSE_STEPS]


def test_request_that_starts_is_not_blocked_any_more() -> None:
    blocked = engine(request("a"))
    blocked.begin_step()
    fail(blocked, "a")
    assert "a" in blocked
    blocked.learn(plan("a"), ran={"a": 10}, put_back=(), started=(), has_room=True)
    assert "a" not in blocked


def test_one_answer_per_plan_and_few_tries_for_many() -> None:
    names = [f"r{number}" for number in range(40)]
    blocked = engine(*map(request, names))
    blocked.begin_step()
    fail(blocked, *names)
    tries = []
    for _ in range(400):
        blocked.begin_step()
        open_ones = [name for name in names if name not in blocked]
        assert open_ones == [name for name in names if name not in blocked]
        tries.append(len(open_ones))
        if open_ones:
            fail(blocked, *open_ones)
    assert max(tries) == 1
    assert 0 < sum(tries) <= 400 / MAX_SPACING_STEPS + 1


def test_who_can_start_again_need_not_wait_in_line() -> None:
    """Sixty-four grammars have compiled: one is tried, and as that one starts, two, four and so on."""
    names = [f"r{number}" for number in range(64)]
    blocked = engine(*map(request, names))
    blocked.begin_step()
    fail(blocked, *names)
    waiting, tries = list(names), []
    for _ in range(12):
        blocked.begin_step()
        open_ones = [name for name in waiting if name not in blocked]
        tries.append(len(open_ones))
        started = dict.fromkeys(open_ones, 10)
        blocked.learn(plan(*open_ones), ran=started, put_back=(), started=(), has_room=True)
        waiting = [name for name in waiting if name not in started]
    assert not waiting
    assert tries[:7] == [0, 1, 2, 4, 8, 16, 32]


def test_tries_in_vain_among_others_make_fewer_of_them() -> None:
    names = [f"r{number}" for number in range(8)]
    blocked = engine(*map(request, names))
    blocked.begin_step()
    fail(blocked, *names)
    blocked.begin_step()
    for _ in range(2):
        blocked.begin_step()
        open_one = next(name for name in names if name not in blocked)
        blocked.learn(plan(open_one), ran={open_one: 1}, put_back=(), started=(), has_room=True)
        names.remove(open_one)
    blocked.begin_step()
    tried = [name for name in names if name not in blocked]
    assert len(tried) == 4
    blocked.learn(plan(*tried), ran={tried[0]: 1}, put_back=tried[1:], started=(), has_room=True)
    names.remove(tried[0])
    blocked.begin_step()
    assert len([name for name in names if name not in blocked]) == 2


def test_who_was_not_looked_at_is_not_blamed() -> None:
    blocked = engine(request("a"), request("b"), request("begun"))
    blocked.begin_step()
    blocked.learn(plan("begun", "a", "b"), ran=(), put_back=(), started={"begun"}, has_room=True)
    assert [name in blocked for name in ("a", "b", "begun")] == [True, False, False]
    blocked = engine(request("a"))
    blocked.learn(plan("a"), ran=(), put_back=(), started=(), has_room=False)
    assert "a" not in blocked, "there were no tokens left for it"


def test_adapters_without_a_slot_are_known_beforehand() -> None:
    requests = [request("x", 1), request("y", 2), request("also 1", 1), request("base"), request("third", 3)]
    blocked = engine(*requests, running=2, max_loras=2)
    blocked.begin_step()
    assert [r.request_id for r in requests if r.request_id in blocked] == ["third"]
    blocked = engine(*requests, running=1, max_loras=2)
    blocked.begin_step()
    assert "third" not in blocked


def test_no_more_adapters_start_together_than_there_are_slots() -> None:
    requests = [request("held", 1), request("b", 2), request("c", 3), request("base"), request("b too", 2)]
    blocked = engine(*requests, running=1, max_loras=2)
    blocked.begin_step()
    offered = ["held", "b", "c", "base", "b too"]
    assert blocked.admissible(offered, {"held"}) == ["held", "b", "base", "b too"]
    assert engine(*requests).admissible(offered, ()) == offered


def test_session_that_waits_for_its_client_is_blocked_as_long() -> None:
    blocked = engine(request("s"))
    blocked.resting.add("s")
    blocked.begin_step()
    assert "s" in blocked
    blocked.resting.clear()
    assert "s" not in blocked
