"""One server on the reference set's model files."""

from collections.abc import Iterator

import pytest

from tests.parity.harness import Harness
from tests.parity.reference import ABSENT, find_reference


@pytest.fixture(scope="session")
def harness() -> Iterator[Harness]:
    if (reference := find_reference()) is None:
        pytest.skip(ABSENT)
    with Harness(reference) as harness:
        yield harness
