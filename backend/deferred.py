"""torch, loaded at its first use: nodes can be listed and the port can answer before it is (1.5 s)."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
else:

    class _Deferred:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> object:
            return getattr(importlib.import_module(self._name), attribute)

    torch = _Deferred("torch")

__all__ = ["torch"]
