"""What a run leaves behind: traces of requests in our objects, and the step log."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NoReturn


def mentions(root: object, ids: Set[str], skip: Set[str] = frozenset()) -> list[str]:
    """Return where our objects below `root` still hold one of the request ids, as readable paths.

    Attributes named in `skip` are passed over, and so are the heaps that drop an entry when it
    comes to their top, whether or not the request is still there.
    """
    skip = {*skip, "_reviews", "_heaps"}
    found: list[str] = []
    seen: set[int] = set()
    todo: list[tuple[str, object]] = [(type(root).__name__, root)]
    while todo:
        path, thing = todo.pop()
        if isinstance(thing, str):
            if thing in ids:
                found.append(f"{path}: {thing}")
        elif id(thing) not in seen:
            seen.add(id(thing))
            todo += ((f"{path}{step}", part) for step, part in _parts(thing) if step[1:] not in skip)
    return sorted(found)


def _parts(thing: object) -> Iterator[tuple[str, object]]:
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield "{}", key
            yield f"[{key!r}]", value
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        yield from (("[]", part) for part in thing)
    elif type(thing).__module__.startswith("niyama."):
        names = [*getattr(thing, "__dict__", ())]
        names += [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        yield from ((f".{name}", getattr(thing, name, None)) for name in names)
    elif hasattr(thing, "request_id"):
        yield ".request_id", thing.request_id


def read_step_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a step log; NaN and infinities are errors, as in any strict reader."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line, parse_constant=_refuse) for line in lines]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def check_step_log(steps: list[dict[str, Any]]) -> None:
    """Assert what every line promises, and that time goes forward (L2, L3, L5)."""
    assert steps
    last_end = 0.0
    for step in steps:
        assert step["started_at"] <= step["ended_at"]
        assert last_end <= step["ended_at"]
        last_end = step["ended_at"]
        assert step["duration_s"] == step["ended_at"] - step["started_at"]
        assert step["predicted_s"] > 0
        assert step["margin_s"] >= 0
        assert step["num_prefill_tokens"] == sum(tokens for _, tokens in step["prefills"])
        assert step["realised_tokens"] == step["num_prefill_tokens"] + step["num_decode_tokens"]
        if not step["is_fallback"]:
            assert step["planned_tokens"] >= sum(tokens for _, tokens in step["chunks"])
            assert {"held", "relegated", "restored", "slack_s"} <= step.keys()
