"""One copy of converted weights for all workers of a machine.

A file that holds a component as it is computed with needs no copy: every worker maps it. Where weights must
be cast or laid out anew, the first worker writes the result into a file in shared memory, tensor by tensor,
and all workers map that. Mappings are private (copy on write): nothing that a worker does changes the copy.

A worker holds a shared lock on the copy as long as any tensor of it lives. Who lets go last removes the file,
so no one has to count; the kernel frees the locks of a process that dies. Names begin with the server's
prefix, so that what is left then goes at the server's end like the segments of results.

Layout: the tensors' bytes, each from a 64-byte boundary; the table, JSON; its length, 8 bytes.
"""

import errno
import json
import logging
import math
import mmap
import os
import struct
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from backend.components import Weights
from backend.values import frozen

if sys.platform != "win32":
    import fcntl

_ALIGN = 64
_LENGTH = struct.Struct("<Q")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG)
_log = logging.getLogger(__name__)

Source: TypeAlias = Callable[[], Iterator[tuple[str, Tensor]]]  # a module's tensors as the file has them


@frozen
class Form:
    """What weights are computed with. channels_last: the memory format of tensors of four dimensions; kept:
    names of those that stay in the file's form (`stored.py`).
    """

    dtype: torch.dtype
    channels_last: bool = False
    kept: frozenset[str] = frozenset()

    def fits(self, name: str, value: Tensor) -> bool:
        """Whether a tensor has this form already, as it stands in its file."""
        if name in self.kept:
            return value.is_contiguous()
        return value.dtype == self._dtype(value) and value.is_contiguous(memory_format=self._order(value))

    def made(self, name: str, value: Tensor, device: torch.device) -> Tensor:
        """The tensor in this form on a device: itself where it is so already."""
        if name in self.kept:
            return value.to(device).contiguous()
        return value.to(device, self._dtype(value)).contiguous(memory_format=self._order(value))

    def _dtype(self, value: Tensor) -> torch.dtype:
        """A lone number is no weight: it stays as exact as it is."""
        return self.dtype if value.is_floating_point() and value.ndim else value.dtype

    def _order(self, value: Tensor) -> torch.memory_format:
        last = self.channels_last and value.ndim == 4
        return torch.channels_last if last else torch.contiguous_format


@frozen
class HostCopies:
    """The copies of one server. prefix: what the path of each begins with, in shared memory."""

    prefix: str

    def of(self, weights: Weights) -> "HostCopy":
        return HostCopy(f"{self.prefix}weights-{weights.kind}-{weights.digest.replace('/', '_')}")


def host_copies(prefix: str) -> HostCopies | None:
    """The copies below a prefix; None on Windows, which lacks the locks: each worker has its own there."""
    return None if sys.platform == "win32" else HostCopies(prefix)


@frozen
class HostCopy:
    """The copies of one component, one per form. stem: of their paths."""

    stem: str

    def find(self, form: Form) -> dict[str, Tensor] | None:
        """The component's tensors, mapped from the copy that is there; None where there is none."""
        return _mapped(self._path(form))

    def make(self, form: Form, source: Source, check: Callable[[], None]) -> dict[str, Tensor] | None:
        """The tensors, mapped from a copy made now, or by another worker meanwhile.

        check: raises where what was read is not what is named; asked before others may see the copy.
        None: shared memory has no room, which is logged.
        """
        path = self._path(form)
        with _locked(path.with_name(path.name + ".lock")):
            found = _mapped(path)
            if found is not None:
                return found
            part = path.with_name(path.name + ".part")
            try:
                _write(part, form, source)
                check()
                os.rename(part, path)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                _log.warning(
                    "%s has no room for weights that workers could share; this one keeps its own. Enlarge it "
                    "(a container's --shm-size), or store the model as %s.",
                    *(path.parent, _name(form.dtype)),
                )
                return None
            finally:
                part.unlink(missing_ok=True)
            return _mapped(path)

    def _path(self, form: Form) -> Path:
        ends = ("-last" if form.channels_last else "", "-rest" if form.kept else "")
        return Path(f"{self.stem}-{_name(form.dtype)}{''.join(ends)}")


def _write(path: Path, form: Form, source: Source) -> None:
    """Written, not mapped: a full tmpfs is then an error, not the end of the process."""
    table: list[tuple[str, str, tuple[int, ...], bool, int]] = []
    with open(path, "wb", buffering=0) as file:
        os.fchmod(file.fileno(), 0o600)
        end = 0
        for name, value in source():
            ready = form.made(name, value, torch.device("cpu"))
            last = form.channels_last and ready.ndim == 4 and name not in form.kept
            flat = (ready.movedim(1, -1) if last else ready).reshape(-1)
            start = -(-end // _ALIGN) * _ALIGN
            _write_all(file.fileno(), flat.view(torch.uint8).numpy().data, start)
            table.append((name, _name(ready.dtype), tuple(ready.shape), last, start))
            end = start + ready.nbytes
        text = json.dumps(table).encode()
        _write_all(file.fileno(), memoryview(text + _LENGTH.pack(len(text))), end)


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _mapped(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a copy, which is held as long as any of them lives."""
    descriptor = _held(path)
    if descriptor is None:
        return None
    mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    weakref.finalize(mapping, _let_go, descriptor, path)
    size = len(mapping)
    (length,) = _LENGTH.unpack_from(mapping, size - _LENGTH.size)
    table = json.loads(mapping[size - _LENGTH.size - length : size - _LENGTH.size])
    return {name: _tensor(mapping, *entry) for name, *entry in table}


def _tensor(mapping: mmap.mmap, dtype: str, shape: list[int], last: bool, start: int) -> Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=kind)
    flat = torch.frombuffer(mapping, dtype=kind, count=count, offset=start)
    return flat.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1) if last else flat.reshape(shape)


def _held(path: Path) -> int | None:
    """A descriptor of the copy with a shared lock; None where there is none, or it is just being removed."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if os.fstat(descriptor).st_nlink == 0:
        os.close(descriptor)
        return None
    return descriptor


def _let_go(descriptor: int, path: Path) -> None:
    """The mapping is gone; where nobody else has one, the copy goes too."""
    with suppress(OSError):  # locked by another: it still uses the copy
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            os.unlink(path)
    os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time. The file stays: removing it would let two have it at once."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
