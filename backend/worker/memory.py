"""The memory of a device: what may still be taken, and what counts as having run out.

On a CPU nothing stops a process before the system kills it, so work says first what it will need, and is
refused here where that is too much. On a GPU the driver's own refusal is exact, and estimates are not asked.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import psutil
import torch

from backend.components import Weights
from backend.errors import OutOfMemory
from backend.models.parts import place_of
from backend.models.weights import as_stored, open_model
from backend.settings import Settings
from backend.worker.heap import give_back

# what the allocators of torch say where they have no class of their own for it
_WORDS = ("can't allocate memory", "not enough memory", "out of memory")

SPARE = 768 << 20  # bytes that a GPU should have left once weights are loaded: one pass of a megapixel or so


class Memory:
    """What a worker may use. held: the bytes of its resident components, as of now."""

    def __init__(self, device: torch.device, settings: Settings, held: Callable[[], int]) -> None:
        self.device, self.limit = device, settings.worker_memory
        self._held = held
        if device.type == "cuda" and self.limit is not None:
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / total), device)

    @property
    def room(self) -> int:
        """Bytes that may still be taken: under the limit, and of what the machine has free."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free += unused
            held = torch.cuda.memory_allocated(self.device)
        else:
            free, held = psutil.virtual_memory().available, self._held()
        return free if self.limit is None else max(0, min(free, self.limit - held))

    def claim(self, what: str, needed: int) -> None:
        """Say that `what` is about to take so many bytes. Raises: OutOfMemory where there is no such room."""
        if self.device.type == "cpu" and needed > (room := self.room):
            raise OutOfMemory(what, needed, room, self.limit)

    def fits(self, needed: int) -> bool:
        """Whether so many bytes may be taken by what can be done without."""
        spare = SPARE if self.device.type == "cuda" else 0
        return needed + spare <= self.room

    def require_spare(self, what: str, nbytes: int) -> None:
        """Once weights of so many bytes are on a GPU: what is computed with them needs room too.

        Raises: OutOfMemory where less than `SPARE` is left.
        """
        if self.device.type == "cuda" and (room := self.room) < SPARE:
            raise OutOfMemory(what, nbytes + SPARE, room + nbytes, self.limit)

    def rest(self) -> None:
        """As `trim`, but for a GPU: its cache is dear to fill again, and nobody else's to take."""
        if self.device.type == "cpu":
            self.trim()

    def trim(self) -> None:
        """Give memory that was freed here back to the device or the system, for others to take."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            give_back()


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, of whatever kind."""
    if isinstance(error, (OutOfMemory, MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def weight_bytes(weights: Weights, dtype: torch.dtype) -> int:
    """What a component will take once it is loaded on a CPU, read from its files' headers.

    Raises: BadFile for a file that is missing or damaged.
    """
    total = 0
    for file in weights.files:
        header = open_model(file.path).header
        place = place_of(header, weights.kind, weights.part)
        infos = {n: header.tensors[n] for n in (header if place is None else place.names.values())}
        frugal = weights.kind in ("denoiser", "text_encoder") and dtype.itemsize == 4
        stays = as_stored(infos.values(), frugal)
        for info in infos.values():
            size = math.prod(info.shape)
            total += (info.span[1] - info.span[0]) if info.dtype in stays else size * dtype.itemsize
    return total


def droppable(sizes: Sequence[int], shortage: int | None) -> int:
    """How many of the first `sizes` cover a shortage in bytes (None: all of them are to go).

    0 where even all of them would not be enough: they would be missed for nothing.
    """
    if shortage is None:
        return len(sizes)
    covered = next((n for n, freed in enumerate(accumulate(sizes), 1) if freed >= shortage), 0)
    return covered if shortage > 0 else 0
