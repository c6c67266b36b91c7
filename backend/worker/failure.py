"""An exception as a report: what a client is told of it."""

import dataclasses
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType

from backend.types import OpKey
from backend.worker.messages import Failed, Shown

_LONGEST = 2000  # characters of one input's text
OUT_OF_MEMORY = ("MemoryError", "torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError")
_HINT = (
    "Memory ran out, and the models that were loaded have been dropped. If this ran before, look for a batch "
    "size or an image size that is larger than you meant."
)


def failed(
    key: OpKey, error: BaseException, inputs: Mapping[str, Sequence[object]], skip: Sequence[str]
) -> Failed:
    """The report of an op's exception.

    skip: source files whose outermost frames are ours, and say nothing.
    """
    frames, kind = _without(error.__traceback__, skip), type_name(type(error))
    return Failed(
        key=key,
        type=kind,
        message=f"{error}\n{_HINT}" if kind in OUT_OF_MEMORY else str(error),
        traceback=tuple(traceback.format_tb(frames)),
        inputs={name: tuple(map(shown, items)) for name, items in inputs.items()},
    )


def type_name(kind: type) -> str:
    """Builtins by their bare name, others as `module.Name`; our own may stand for one that clients know."""
    shown = getattr(kind, "shown_as", None)
    if isinstance(shown, str):
        return shown
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def shown(value: object) -> Shown:
    """An input for a reader, as ComfyUI's clients have it: plain values stay what they are."""
    return value if value is None or isinstance(value, (int, float)) else text(value)


def text(value: object) -> str:
    """A value for a reader: tensors and arrays by dtype and shape, anything long cut."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{type(value).__name__}({dtype}, {list(shape)})"
    if isinstance(value, (tuple, list)):
        shown = ", ".join(map(_inner, value[:20])) + (", ..." if len(value) > 20 else "")
        return _cut(f"[{shown}]")
    if isinstance(value, Mapping):
        return _cut("{" + ", ".join(f"{k!r}: {_inner(v)}" for k, v in list(value.items())[:50]) + "}")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ", ".join(f"{f.name}={_inner(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return _cut(f"{type(value).__name__}({fields})")
    return _cut(str(value))


def _inner(value: object) -> str:
    """A part of a value: a text has its quotes there."""
    return _cut(repr(value)) if isinstance(value, str) else text(value)


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."


def _without(frames: TracebackType | None, skip: Sequence[str]) -> TracebackType | None:
    """The traceback from the first frame of foreign code on; all of it where there is none."""
    inner = frames
    while inner is not None and inner.tb_frame.f_code.co_filename in skip:
        inner = inner.tb_next
    return inner or frames
