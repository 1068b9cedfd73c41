from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.engine import rig as engine_rig
from tests.engine.rig import Rig, require_vllm


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The engine of `tests.engine.rig`, the same one that the engine tests use."""
    require_vllm()
    yield engine_rig.start(tmp_path_factory.mktemp("rig"))
    engine_rig.stop()
