"""What every test shares: how much hypothesis tries, and the skip of engine tests without vLLM."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from hypothesis import settings

# No deadline: a slow machine is no failure. In CI the examples are the same in every run.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("vllm") is not None:
        return
    skip = pytest.mark.skip(reason="vLLM is not installed")
    for item in items:
        if item.get_closest_marker("engine"):
            item.add_marker(skip)
