"""The registry of the built-in nodes."""

from collections.abc import Iterator
from importlib import import_module

from backend.node import NodeSpec
from backend.registry import Registry
from nodes import BUILTIN


def builtin_registry() -> Registry:
    """Every built-in node class, in menu order. Loads no torch."""
    return Registry(builtin_nodes())


def builtin_nodes() -> Iterator[NodeSpec]:
    """What the modules of `BUILTIN` define, in the order they do."""
    for name in BUILTIN:
        for value in vars(import_module(name)).values():
            if isinstance(value, NodeSpec):
                yield value
