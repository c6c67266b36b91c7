"""diffusers' model classes without the libraries that its pipelines, schedulers and compilation bring along.

A UNet's module imports its package's siblings, and by them all of transformers, SciPy's statistics and
torch's compiler: 120 of the 330 MB that a worker held before it had a model, and half of its start's time.
None of it computes anything here.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TypeAlias

Function: TypeAlias = Callable[..., object]
_OPTIONAL = ("transformers", "scipy")  # diffusers looks whether they are there, and does without
_COMPILER = "torch._dynamo"  # this one it takes for granted, to mark what must not be compiled


@contextmanager
def without_extras() -> Iterator[None]:
    """While the block imports modules of diffusers; afterwards all can be imported as ever. Only for torch's
    compiler something stands in, until more than a mark is asked of it: torch asks for one where a module is
    made on the meta device.

    What was imported before stays what it is. Other threads must not import any of them meanwhile.
    """
    absent = {name: None for name in _OPTIONAL if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None: Python's own mark of a module that isn't there
    marks = _Marks(_COMPILER)
    sys.modules.setdefault(_COMPILER, marks)
    try:
        yield
    finally:
        marks.hidden.discard("__path__")
        for name in absent:
            del sys.modules[name]


class _Marks(ModuleType):
    """The compiler's decorators where nothing is compiled. Whatever else is asked for is the compiler's.

    hidden: what it is said not to have; `__path__` is asked for by imports from it, and of modules in it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.hidden = {"__path__"}

    @staticmethod
    def disable(
        function: Function | None = None, recursive: bool = True, **_: object
    ) -> Function | Callable[[Function], Function]:
        return _unchanged if function is None else function

    @staticmethod
    def allow_in_graph(function: Function) -> Function:
        return function

    def __getattr__(self, name: str) -> object:
        if name in self.hidden or (name.startswith("__") and name != "__path__"):
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        import torch._dynamo

        return getattr(torch._dynamo, name)


def _unchanged(function: Function) -> Function:
    return function
