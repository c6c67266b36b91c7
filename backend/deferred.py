"""torch, loaded at its first use: nodes can be listed and the port can answer before it is (1.5 s)."""

import importlib
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
else:

    class _Deferred:
        def __init__(self, name: str) -> None:
            self._name = name

        @cached_property
        def _module(self) -> ModuleType:
            return importlib.import_module(self._name)

        def __getattr__(self, attribute: str) -> object:
            return getattr(self._module, attribute)

    torch = _Deferred("torch")

__all__ = ["torch"]
