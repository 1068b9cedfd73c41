"""Check by signature, without installing, whether vLLM wheels have what our host steers by.

python scripts/check_vllm_wheel.py WHEEL...

Looks in the wheel's `Scheduler` for every attribute in `compat.SCHEDULER_ATTRIBUTES`, for the methods that
we wrap, and in its `Request` for what we read. Exit code 1 if something is missing.
"""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path

from niyama.engines.vllm.compat import SCHEDULER_ATTRIBUTES

SCHED = "vllm/v1/core/sched"
WRAPPED = ("add_request", "schedule", "update_from_output", "get_grammar_bitmask", "_preempt_request")
WRAPPED += ("get_request_counts",)
REQUEST = ("num_computed_tokens", "num_prompt_tokens", "num_tokens", "max_tokens", "arrival_time", "priority")
REQUEST += ("next_decode_eligible_step", "block_hashes", "sampling_params", "get_finished_reason")
QUEUE = ("add_request", "pop_request", "peek_request", "prepend_request", "prepend_requests")
QUEUE += ("remove_request", "remove_requests", "__bool__", "__len__", "__iter__")


def names(source: str) -> set[str]:
    """Return every function defined and every attribute set on `self` in a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def missing(wheel: Path) -> list[str]:
    """Return what a wheel lacks."""
    with zipfile.ZipFile(wheel) as files:
        read = {
            name: names(files.read(name).decode())
            for name in (f"{SCHED}/scheduler.py", f"{SCHED}/request_queue.py", "vllm/v1/request.py")
        }
        has_async = f"{SCHED}/async_scheduler.py" in files.namelist()
    wanted = {
        f"{SCHED}/scheduler.py": {*SCHEDULER_ATTRIBUTES, *WRAPPED},
        f"{SCHED}/request_queue.py": set(QUEUE),
        "vllm/v1/request.py": set(REQUEST),
    }
    lacking = [f"{name}: {item}" for name, items in wanted.items() for item in sorted(items - read[name])]
    return lacking if has_async else [*lacking, f"{SCHED}/async_scheduler.py"]


def main() -> int:
    """Check the wheels named on the command line."""
    worst = 0
    for wheel in map(Path, sys.argv[1:]):
        lacking = missing(wheel)
        print(f"{wheel.name}: {'; '.join(lacking) or 'all there'}")
        worst |= bool(lacking)
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
