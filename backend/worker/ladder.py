"""What is tried where memory runs out, mildest first.

1. Components that no running op needs are dropped, the least recently used first.
2. A component that does not fit even so stays on the host: each layer's weights come to the device for its
   product alone (on a CPU: they stay mapped from the file in its own form).
3. A forward pass is cut into smaller ones, down to one row; a VAE op that was to run whole runs in tiles.
4. The op fails, alone, with words that say what to change.

Each rung is logged and counted.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from torch import Tensor

from backend.errors import OutOfMemory
from backend.ops import Tiles
from backend.worker.batch import ModelCall, Pass, layout, run
from backend.worker.memory import Memory, ran_out
from backend.worker.messages import Relief

# Sizes and overlaps in pixels, for VAE ops that do not fit whole. The overlap hides the seams.
TILES = (Tiles(1024, 128), Tiles(512, 64), Tiles(256, 64))
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Ladder:
    """Runs work, and climbs where it runs out of memory.

    evict: drop idle components until so many more bytes are free (None: all that are idle). Returns: how many
    went.
    """

    def __init__(self, memory: Memory, evict: Callable[[int | None], int]) -> None:
        self.memory, self._evict = memory, evict
        self._fitting: dict[object, int] = {}  # the rows of a pass of a layout that had to be cut
        self.relief = Relief()

    def attempt(self, what: str, work: Callable[[], T]) -> T:
        """Do `work`, again after each eviction that it needs.

        Raises: OutOfMemory where nothing is left to drop; what `work` raises.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if not ran_out(error):
                    raise
                shortage = error.needed - error.room if isinstance(error, OutOfMemory) else None
                failure = error if isinstance(error, OutOfMemory) else self._described(what, error)
            # outside the handler: the traceback no longer holds the tensors of what failed
            gone = self._evict(shortage)
            if not gone:
                raise failure
            self.relief = replace(self.relief, evicted=self.relief.evicted + gone)
            self._fitting.clear()
            _log.warning("%s: out of memory; dropped %d idle components, trying again", what, gone)

    def loaded(self, what: str, work: Callable[[bool], T]) -> T:
        """Do `work(False)`, which loads components; where they do not fit, `work(True)`, which leaves their
        weights on the host.

        Raises: OutOfMemory where that does not fit either; what `work` raises.
        """
        try:
            return self.attempt(what, partial(work, False))
        except OutOfMemory as error:
            _log.warning("%s: it does not fit (%s); its weights stay on the host", what, error)
        self.relief = replace(self.relief, offloaded=self.relief.offloaded + 1)
        return self.attempt(what, partial(work, True))

    def passes(self, calls: Sequence[ModelCall], max_rows: int) -> tuple[list[Tensor], list[Pass]]:
        """`batch.run`, in as many passes as memory asks for.

        Raises: OutOfMemory where not even one row fits.
        """
        shape = layout(calls[0])
        rows = min(max_rows, sum(len(call.x) for call in calls), self._fitting.get(shape, max_rows))
        while True:
            try:
                return self.attempt(
                    f"a forward pass of {rows} rows", partial(run, calls, rows, self._claim_pass)
                )
            except OutOfMemory:
                if rows == 1:
                    raise
            rows = (rows + 1) // 2
            self._fitting[shape] = rows
            self.relief = replace(self.relief, split=self.relief.split + 1)
            _log.warning("out of memory: this model now runs at most %d rows of this size at once", rows)

    def tiled(
        self,
        what: str,
        asked: Tiles | None,
        work: Callable[[Tiles | None], T],
        smaller: Sequence[Tiles] = TILES,
    ) -> T:
        """Do `work(asked)`; where an op that was to run whole does not fit, in tiles, the largest that fit.

        Raises: OutOfMemory where the tiles asked for, or the smallest, do not fit either.
        """
        choices = (asked,) if asked is not None else (None, *smaller)
        for number, tiles in enumerate(choices, 1):
            try:
                result = self.attempt(what, partial(work, tiles))
            except OutOfMemory:
                if number == len(choices):
                    raise
                continue
            if number > 1 and tiles is not None:
                self.relief = replace(self.relief, tiled=self.relief.tiled + 1)
                _log.warning("%s: out of memory; ran in tiles of %d pixels instead", what, tiles.size)
            return result
        raise AssertionError("the last choice returns or raises")

    def gave_up(self) -> None:
        """An op failed for want of memory."""
        self.relief = replace(self.relief, failed=self.relief.failed + 1)

    def forget(self) -> None:
        """Memory was given back by others: try large passes again."""
        self._fitting.clear()

    def _claim_pass(self, call: ModelCall, rows: int) -> None:
        self.memory.claim(f"a forward pass of {rows} rows", call.network.working_bytes(rows, call.x.shape))

    def _described(self, what: str, error: Exception) -> OutOfMemory:
        _log.debug("out of memory in %s", what, exc_info=error)
        return OutOfMemory(what, 0, self.memory.room, self.memory.limit)
