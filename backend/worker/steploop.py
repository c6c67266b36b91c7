"""The step loop: all running Denoise ops of a device advance together, one model evaluation each a turn."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, perf_counter

from torch import Tensor

from backend.ops import Denoise
from backend.types import Latent, OpKey
from backend.worker.batch import ModelCall, groups, run
from backend.worker.denoise import Denoising
from backend.worker.failure import failed
from backend.worker.messages import Failed, Preview, Progress
from backend.worker.preview import jpeg

_PREVIEW_EVERY = 0.1  # seconds between the previews of one op
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counters:
    """forwards: passes; rows: in them in all; shared: passes for several ops; largest: rows of one pass;
    sizes: (rows, passes of that many rows), by rows.
    """

    forwards: int = 0
    rows: int = 0
    shared: int = 0
    largest: int = 0
    sizes: tuple[tuple[int, int], ...] = ()

    def plus(self, rows: int, ops: int) -> "Counters":
        sizes = dict(self.sizes)
        sizes[rows] = sizes.get(rows, 0) + 1
        return Counters(
            self.forwards + 1,
            self.rows + rows,
            self.shared + (ops > 1),
            max(self.largest, rows),
            tuple(sorted(sizes.items())),
        )


@dataclass(slots=True, eq=False)
class _Running:
    op: Denoise
    run: Denoising
    preview_size: int | None  # None: no previews
    seconds: float = 0.0
    previewed: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished run: its outputs and the compute time that it had a part in."""

    key: OpKey
    outputs: tuple[Latent, Latent]
    seconds: float


class StepLoop:
    """The running Denoise ops. report is told of progress, previews, failures and ends."""

    def __init__(self, max_rows: int, report: Callable[[Progress | Preview | Failed | Ended], None]) -> None:
        self._max_rows, self._report = max_rows, report
        self._running: dict[OpKey, _Running] = {}
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._running)

    def add(self, op: Denoise, run: Denoising, preview_size: int | None) -> None:
        """Let a run take part from the next turn on. One without steps ends here."""
        if run.result is not None:
            self._report(Ended(run.key, run.result, 0.0))
        else:
            self._running[run.key] = _Running(op, run, preview_size)

    def cancel(self, key: OpKey) -> bool:
        """Drop a run; the others are as before. Returns: whether it was running."""
        running = self._running.pop(key, None)
        if running is not None:
            running.run.close()
        return running is not None

    def turn(self) -> None:
        """Answer the pending request of every run, batching what fits together."""
        calls = list[ModelCall]()
        for key, running in list(self._running.items()):
            try:
                calls += running.run.calls()
            except Exception as error:  # around an operation: its options may be refused here
                self._fail(key, error)
        outputs: dict[int, Tensor] = {}
        for members in groups(calls):
            self._evaluate({i: calls[i] for i in members}, outputs)
        for key in dict.fromkeys(call.op for call in calls):
            if key in self._running:
                self._resume(key, [outputs[i] for i, call in enumerate(calls) if call.op == key])

    def _evaluate(self, calls: Mapping[int, ModelCall], outputs: dict[int, Tensor]) -> None:
        """Run a group and hand out its parts.

        Where a shared pass fails, each op runs alone: one is at fault.
        """
        mine = {i: call for i, call in calls.items() if call.op in self._running}
        ops = list(dict.fromkeys(call.op for call in mine.values()))
        if not ops:
            return
        started = perf_counter()
        try:
            results, passes = run(list(mine.values()), self._max_rows)
        except Exception as error:  # around an operation
            if len(ops) == 1:
                self._fail(ops[0], error)
                return
            _log.warning("a pass for %d ops failed (%s); running each alone", len(ops), error)
            results, passes = [], []
        if not passes:
            for op in ops:
                self._evaluate({i: call for i, call in mine.items() if call.op == op}, outputs)
            return
        seconds = perf_counter() - started
        for done in passes:
            self.counters = self.counters.plus(done.rows, done.ops)
        outputs.update(zip(mine, results, strict=True))
        for op in ops:
            self._running[op].seconds += seconds / len(ops)

    def _resume(self, key: OpKey, parts: list[Tensor]) -> None:
        running = self._running[key]
        try:
            step = running.run.answer(parts)
        except Exception as error:  # around an operation
            self._fail(key, error)
            return
        if step is not None:
            self._preview(running)  # first: clients show it with the progress that follows
            self._report(Progress(key, step + 1, running.run.total))
        if running.run.result is not None:
            del self._running[key]
            self._report(Ended(key, running.run.result, running.seconds))

    def _preview(self, running: _Running) -> None:
        now = monotonic()
        if running.preview_size is None or now - running.previewed < _PREVIEW_EVERY:
            return
        running.previewed = now
        image = jpeg(running.run.estimate, running.run.format, running.preview_size)
        if image is not None:
            self._report(Preview(running.run.key, image))

    def _fail(self, key: OpKey, error: Exception) -> None:
        running = self._running.pop(key)
        running.run.close()
        _log.warning("op %s failed: %s", key, error, exc_info=error)
        self._report(failed(key, error, described(running.op), ()))


def described(op: object) -> dict[str, tuple[object, ...]]:
    """An op's fields, as the inputs of a failure report."""
    if not dataclasses.is_dataclass(op):
        return {}
    return {field.name: (getattr(op, field.name),) for field in dataclasses.fields(op)}
