"""Chains of wrappers, each of which is handed the rest of the chain, and where runs find them."""

from collections.abc import Sequence
from typing import Any


class WrapperExecutor:
    """Calls a chain of wrappers, each of which is handed the rest of the chain."""

    def __init__(self, original: Any, class_obj: Any, wrappers: Sequence[Any], idx: int) -> None:
        self.original, self.class_obj, self.wrappers, self.idx = original, class_obj, list(wrappers), idx
        self.is_last = idx == len(self.wrappers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """From a wrapper: the next one, or the function itself."""
        return self._next().execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_last:
            return self.original(*args, **kwargs)
        return self.wrappers[self.idx](self, *args, **kwargs)

    def _next(self) -> "WrapperExecutor":
        return WrapperExecutor(self.original, self.class_obj, self.wrappers, self.idx + 1)

    @classmethod
    def new_executor(cls, original: Any, wrappers: Sequence[Any], idx: int = 0) -> "WrapperExecutor":
        return cls(original, None, wrappers, idx)

    @classmethod
    def new_class_executor(
        cls, original: Any, class_obj: Any, wrappers: Sequence[Any], idx: int = 0
    ) -> "WrapperExecutor":
        return cls(original, class_obj, wrappers, idx)


def wrapped(function: Any, kind: str, options: Any, owner: Any = None) -> Any:
    """The function within the wrappers of a kind that `transformer_options` hold."""
    found = listed(options, "wrappers", kind)
    return WrapperExecutor(function, owner, found, 0).execute if found else function


def listed(options: Any, what: str, kind: str) -> list[Any]:
    """The wrappers or callbacks of a kind, of all keys in order."""
    by_key = ((options or {}).get(what) or {}).get(kind) or {}
    return [one for functions in by_key.values() for one in functions]
