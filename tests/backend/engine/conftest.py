"""An engine with third-party nodes, and what its client hears."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backend.engine.foreign import Bench, a_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with a_bench(tmp_path) as made:
        yield made
