"""Which cases run with every `make test`; the others are marked slow and run in `make test-all`."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
_EVERY = 4
_LONG = frozenset({"vae-tiled-decode"})  # test_vae.py decodes the same latent in tiles without a server


def sampled(cases: Iterable[T], name: Callable[[T], str], kind: Callable[[T], str]) -> list[Any]:
    """A test's parameters: the first of each kind and every fourth after it, and the others as slow."""
    seen: Counter[str] = Counter()
    found = []
    for case in cases:
        number, seen[kind(case)] = seen[kind(case)], seen[kind(case)] + 1
        slow = number % _EVERY or name(case) in _LONG
        found.append(pytest.param(case, id=name(case), marks=[pytest.mark.slow] if slow else []))
    return found
