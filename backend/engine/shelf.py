"""The disk tier of finished results: what is thrown out of memory goes to files, if reading it back is
cheaper than making it again. It lasts as long as the server.
"""

import heapq
import logging
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from pickle import PicklingError
from threading import Lock

from backend.errors import TesseraError
from backend.types import OpKey, Seconds
from backend.values import frozen
from backend.worker.exchange import Value
from backend.worker.messages import Segment, Stored

READS = 200e6  # bytes a second that a disk is taken to give
LEAST = 0.02  # seconds of work below which a result is not worth a file
log = logging.getLogger(__name__)


@frozen
class Kept:
    """A result on disk. lengths, seconds, ui: as in `results.Result`."""

    value: Stored
    lengths: tuple[int, ...]
    seconds: Seconds
    ui: Mapping[str, object] | None
    nbytes: int
    worth: float


class OnDisk(Value):
    """A value whose file is the shelf's: closing it keeps the file."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return 0  # mapped, and given back by the system when memory is short

    def close(self) -> None:
        with self._lock:
            self._result = None


class Shelf:
    """Files under a byte budget; the same worth as in memory says which goes first.

    Asked on the engine's thread; files are written in one of its own.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._budget = folder, budget
        self._used, self._age, self._serial = 0, 0.0, 0
        self._kept: dict[OpKey, Kept] = {}
        self._heap: list[tuple[float, OpKey]] = []
        self._out: set[OpKey] = set()  # in memory too: their files stay
        self._lock = Lock()
        self._writer = ThreadPoolExecutor(1, "shelf")

    def __contains__(self, key: OpKey) -> bool:
        return key in self._kept

    @property
    def nbytes(self) -> int:
        return self._used

    def put(
        self,
        key: OpKey,
        value: Stored,
        lengths: tuple[int, ...],
        seconds: Seconds,
        ui: Mapping[str, object] | None,
    ) -> None:
        """Take over a result that memory gives up. It is there from when its file is written."""
        if isinstance(value, OnDisk) or key in self._kept:
            self._out.discard(key)
            value.close()  # the file is there already
            return
        if seconds < max(LEAST, value.nbytes / READS) or value.nbytes > self._budget:
            value.close()
            return
        self._serial += 1
        path = self._folder / f"{self._serial}.result"
        self._writer.submit(self._write, key, value, path, partial(self._enter, lengths, seconds, ui))

    def take(self, key: OpKey) -> Kept | None:
        """A result that is on disk. Its file stays; give the value back with `put`."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._out.add(key)
            return kept

    def clear(self) -> None:
        """Forget what isn't taken."""
        with self._lock:
            for key in [key for key in self._kept if key not in self._out]:
                self._forget(key)

    def settle(self) -> None:
        """Wait until everything is written that was taken over."""
        self._writer.submit(lambda: None).result()

    def close(self) -> None:
        """Write nothing more, and remove the files."""
        self._writer.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, key: OpKey, value: Stored, path: Path, enter: Callable[[OpKey, Segment], None]) -> None:
        try:
            segment = value.segment()
            shutil.copyfile(segment.path, path)
            enter(key, Segment(str(path), segment.nbytes))
        except (OSError, TesseraError, PicklingError, TypeError, AttributeError) as error:
            log.debug("result %s can't be kept on disk: %s", key, error)
            path.unlink(missing_ok=True)
        finally:
            value.close()

    def _enter(
        self,
        lengths: tuple[int, ...],
        seconds: Seconds,
        ui: Mapping[str, object] | None,
        key: OpKey,
        segment: Segment,
    ) -> None:
        with self._lock:
            worth = self._age + seconds / segment.nbytes
            value = OnDisk.attach(segment)
            self._kept[key] = Kept(value, lengths, seconds, ui, segment.nbytes, worth)
            self._used += segment.nbytes
            heapq.heappush(self._heap, (worth, key))
            self._evict()

    def _evict(self) -> None:
        out: list[tuple[float, OpKey]] = []
        while self._used > self._budget and self._heap:
            worth, least = heapq.heappop(self._heap)
            if least in self._out:
                out.append((worth, least))
                continue
            self._age = worth
            self._forget(least)
        for mark in out:
            heapq.heappush(self._heap, mark)

    def _forget(self, key: OpKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._used -= kept.nbytes
            Path(kept.value.segment().path).unlink(missing_ok=True)
