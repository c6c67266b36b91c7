"""Results between processes: one file in shared memory holds a pickle and, behind it, the bytes of its
tensors.

Reading maps the file and copies nothing: tensors lie in the mapping, which lives as long as any of them, even
when the file is gone by then. The mapping is private (copy on write), so a reader that writes to a tensor
spoils no one else's.

Layout: `_HEAD`, one `_PART` (offset, bytes) per buffer, the pickle, then the buffers, each on a 64-byte
boundary.
"""

import dataclasses
import errno
import io
import mmap
import os
import pickle
import struct
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

import psutil

from backend.deferred import torch
from backend.errors import TesseraError
from backend.worker.messages import Segment

Outputs: TypeAlias = tuple[tuple[object, ...], ...]  # an op's result: per output, its items

if TYPE_CHECKING:
    from torch import Tensor

_MAGIC = b"tessera1"
_HEAD = struct.Struct("<8sQQ")  # magic, bytes of the pickle, number of buffers
_PART = struct.Struct("<QQ")  # offset from the start of the file, bytes
_ALIGN = 64
_PREFIX = "tessera-"
_REUSE_SLACK = 2.0  # seconds: a process's start time is known to about one


class MemoryFull(TesseraError):
    """Shared memory had no room for a result."""

    code = "shared_memory_full"

    def __init__(self, folder: Path, needed: int) -> None:
        self.folder, self.needed = folder, needed
        super().__init__(
            f"{folder} has no room for a result of {needed / 2**20:.1f} MB. Free space there (a container's "
            "--shm-size sets its size), lower the budget of cached results, or use smaller batches."
        )


class BadSegment(TesseraError):
    """A segment that is gone, cut short, or none of ours."""

    code = "bad_segment"

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(
            f"The result in {path} can't be read: {problem}. Run the prompt again to recompute it."
        )


class Value:
    """An op's result: objects in this process, a segment, or both; each is made from the other when asked
    for.

    Safe to use from several threads.
    """

    __slots__ = ("_lock", "_made_here", "_owner", "_result", "_segment")

    def __init__(self, result: Outputs | None, segment: Segment | None, owner: int | None) -> None:
        self._result, self._segment, self._owner = result, segment, owner
        self._made_here = result is not None  # else the objects lie in the segment's mapping
        self._lock = threading.Lock()

    @classmethod
    def of(cls, result: Outputs, owner: int | None = None) -> Self:
        """A result made here. owner: pid of the server that a segment of it will belong to (None: this)."""
        return cls(result, None, owner)

    @classmethod
    def attach(cls, segment: Segment) -> Self:
        """A result that another process packed."""
        return cls(None, segment, None)

    def get(self) -> Outputs:
        """The objects. Raises: BadSegment."""
        with self._lock:
            if self._result is None:
                if self._segment is None:
                    raise BadSegment("a closed value", "it was evicted")
                self._result = read(self._segment)
            return self._result

    def segment(self) -> Segment:
        """The packed form.

        Raises: MemoryFull; PicklingError and the like for objects that can't be packed.
        """
        with self._lock:
            if self._segment is None:
                if self._result is None:
                    raise BadSegment("a closed value", "it was evicted")
                self._segment = write(self._result, self._owner)
            return self._segment

    @property
    def nbytes(self) -> int:
        """What closing would give back: the bytes of tensors made here and of the segment."""
        with self._lock:
            packed = self._segment.nbytes if self._segment else 0
            return packed + (tensor_bytes(self._result) if self._made_here else 0)

    def close(self) -> None:
        with self._lock:
            segment, self._segment, self._result = self._segment, None, None
        if segment is not None:
            remove(segment)


def write(result: Outputs, owner: int | None = None) -> Segment:
    """Pack a result into a new segment, in the name of the server `owner` (None: this process).

    Raises: MemoryFull; PicklingError, TypeError or AttributeError for objects that pickle refuses.
    """
    stream, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(result)
    body = stream.getbuffer()
    parts, views = list[tuple[int, int]](), [buffer.raw() for buffer in buffers]
    end = _HEAD.size + _PART.size * len(views) + body.nbytes
    for view in views:
        start = -(-end // _ALIGN) * _ALIGN
        parts.append((start, view.nbytes))
        end = start + view.nbytes
    head = _HEAD.pack(_MAGIC, body.nbytes, len(views)) + b"".join(_PART.pack(*part) for part in parts)
    path = folder() / f"{_PREFIX}{owner or os.getpid()}-{uuid.uuid4().hex}"
    _write_file(path, [(0, memoryview(head)), (len(head), body)], list(zip(parts, views, strict=True)), end)
    return Segment(str(path), end)


def read(segment: Segment) -> Outputs:
    """Map a segment. Raises: BadSegment."""
    try:
        with open(segment.path, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise BadSegment(segment.path, str(error)) from error
    if view.nbytes != segment.nbytes or view[: len(_MAGIC)] != _MAGIC:
        raise BadSegment(segment.path, f"it has {view.nbytes} bytes where {segment.nbytes} were written")
    _, size, count = _HEAD.unpack_from(view)
    start = _HEAD.size + _PART.size * count
    parts = [_PART.unpack_from(view, _HEAD.size + _PART.size * i) for i in range(count)]
    result: Outputs = pickle.loads(
        view[start : start + size], buffers=[view[offset : offset + nbytes] for offset, nbytes in parts]
    )
    return result


def remove(segment: Segment) -> None:
    """Delete a segment's file. Who mapped it before keeps what was mapped."""
    with suppress(FileNotFoundError):
        os.unlink(segment.path)


def folder() -> Path:
    """Where segments lie: shared memory, or the temp folder on systems without it."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def prefix(owner: int) -> str:
    """What the paths of all begin with that belongs to the server `owner` and goes when it ends."""
    return str(folder() / f"{_PREFIX}{owner}-")


def sweep(where: Path | None = None) -> int:
    """Delete the segments of servers that no longer run. Returns: how many.

    A pid may have a new bearer by now: segments older than the process that bears it are left-overs too.
    """
    removed = 0
    for path in (where or folder()).glob(f"{_PREFIX}*-*"):
        owner = path.name.removeprefix(_PREFIX).split("-")[0]
        with suppress(OSError):  # gone meanwhile, or another user's
            if owner.isdigit() and not _alive(int(owner), path.stat().st_mtime):
                path.unlink()
                removed += 1
    return removed


def sweep_own(where: Path | None = None) -> int:
    """Delete this server's segments, at its end. Returns: how many."""
    paths = list((where or folder()).glob(f"{_PREFIX}{os.getpid()}-*"))
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def tensor_bytes(value: object) -> int:
    """The bytes of the tensors and byte strings in a value's tuples, lists, mappings and dataclasses."""
    if isinstance(value, (str, int, float, type(None))):
        return 0
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    if isinstance(value, (tuple, list)):
        return sum(map(tensor_bytes, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(tensor_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(size := getattr(value, "nbytes", None), int):
        return size
    if isinstance(value, Mapping):
        return sum(map(tensor_bytes, value.values()))
    if isinstance(value, (set, frozenset)):
        return sum(map(tensor_bytes, value))
    return 0


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:  # what pickle takes is beyond a type
        """Tensors go out of band as bytes; all else as pickle does it (numpy arrays out of band too)."""
        if "torch" not in sys.modules or not isinstance(obj, torch.Tensor) or obj.layout != torch.strided:
            return NotImplemented
        flat = obj.detach().to("cpu").resolve_conj().resolve_neg().contiguous().reshape(-1)
        data = cast(bytes, flat.view(torch.uint8).numpy())  # numpy 1's stubs don't say that it is a buffer
        return _tensor, (pickle.PickleBuffer(data), obj.dtype, tuple(obj.shape))


def _tensor(data: memoryview, dtype: "torch.dtype", shape: tuple[int, ...]) -> "Tensor":
    if not len(data):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


def _write_file(
    path: Path,
    front: Sequence[tuple[int, memoryview]],
    back: Iterable[tuple[tuple[int, int], memoryview]],
    size: int,
) -> None:
    """Write the pieces at their offsets. Written, not mapped: a full tmpfs is then an error, not a SIGBUS."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        for offset, view in (*front, *((part[0], view) for part, view in back)):
            _write_all(descriptor, view, offset)
        os.ftruncate(descriptor, size)  # an empty last buffer ends on a boundary that nothing was written to
    except OSError as error:
        os.unlink(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
            raise MemoryFull(path.parent, size) from error
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _alive(pid: int, since: float) -> bool:
    """Whether `pid` runs, and already did at the epoch second `since`."""
    try:
        return psutil.Process(pid).create_time() - _REUSE_SLACK <= since
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
