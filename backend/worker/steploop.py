"""The step loop: all running Denoise ops of a device advance together, one model evaluation each a turn."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic, perf_counter

from torch import Tensor

from backend.components import Weights
from backend.models.additions import Residuals
from backend.models.control_layout import ControlInputs
from backend.ops import Denoise
from backend.types import ComponentId, DeviceId, Latent, OpKey, Part
from backend.values import frozen
from backend.worker.batch import Control, Elsewhere, ModelCall, Pass, groups, run
from backend.worker.denoise import Denoising
from backend.worker.failure import failed
from backend.worker.lending import ControlLoan, Lending, Loan, control_loan_of, loan_of
from backend.worker.messages import Failed, Preview, Progress
from backend.worker.preview import Shown, jpeg

_PREVIEW_EVERY = 0.1  # seconds between the previews of one op
_log = logging.getLogger(__name__)


@frozen
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
    shown: Shown | None  # None: no previews
    seconds: float = 0.0
    previewed: float = 0.0


@frozen
class Ended:
    """A finished run: its outputs and the compute time that it had a part in."""

    key: OpKey
    outputs: tuple[Latent, ...]
    seconds: float


@frozen(eq=False)
class Lent:
    """A call for another device to compute; `StepLoop.answer` takes what comes back under its number. What it
    makes of a control loan, the pass waits for.
    """

    number: int
    helper: DeviceId
    loan: Loan | ControlLoan


def _unanswered(number: int, helper: DeviceId) -> Residuals | None:
    """The `wait` of who has nobody to ask."""
    return None


class StepLoop:
    """The running Denoise ops. report is told of progress, previews, failures, ends and of calls to lend;
    wait: for what a helper makes of a control loan, None where that will not come.
    """

    def __init__(
        self,
        max_rows: int,
        report: Callable[[Progress | Preview | Failed | Ended | Lent], None],
        run: Callable[[Sequence[ModelCall], int], tuple[list[Tensor], list[Pass]]] = run,
        wait: Callable[[int, DeviceId], Residuals | None] = _unanswered,
    ) -> None:
        self._max_rows, self._report, self._run, self._wait = max_rows, report, run, wait
        self._running: dict[OpKey, _Running] = {}
        self._paused: dict[OpKey, _Running] = {}
        self._lending = Lending()
        self._times: dict[tuple[ComponentId, int], float] = {}
        self.counters = Counters()

    @property
    def ops(self) -> list[Denoise]:
        return [running.op for running in (*self._running.values(), *self._paused.values())]

    def op(self, key: OpKey) -> Denoise | None:
        """What runs or is paused under a key."""
        running = self._running.get(key) or self._paused.get(key)
        return None if running is None else running.op

    def __len__(self) -> int:
        """Runs that a turn would bring on: those that wait for another device are not among them."""
        return len(self._running) - len(self._lending)

    def add(self, op: Denoise, run: Denoising, shown: Shown | None) -> None:
        """Let a run take part from the next turn on. One without steps ends here."""
        if run.result is not None:
            self._report(Ended(run.key, run.result, 0.0))
        else:
            self._running[run.key] = _Running(op, run, shown)

    def cancel(self, key: OpKey) -> bool:
        """Drop a run; the others are as before. Returns: whether it was there."""
        running = self._running.pop(key, None) or self._paused.pop(key, None)
        self._lending.forget(key)
        if running is not None:
            running.run.close()
        return running is not None

    def pause(self, key: OpKey) -> None:
        """Let a run take no part in turns; its state is kept. No effect on one that has ended."""
        if key in self._running:
            self._lending.recall(key)
            self._paused[key] = self._running.pop(key)

    def split(self, key: OpKey, helper: DeviceId, part: Part = "calls") -> None:
        """Let `helper` compute a share of a run's calls, or its control models."""
        if key in self._running or key in self._paused:
            self._lending.split(key, helper, part)

    def unsplit(self, key: OpKey, helper: DeviceId) -> None:
        """Do without `helper`, which is needed elsewhere: what it has not brought back is computed here."""
        for number in self._lending.unsplit(key, helper):
            self.answer(number, None)

    def answer(self, number: int, output: Tensor | None) -> None:
        """A lent call came back, with its raw output; None: the helper could not, and it is computed here."""
        owned = self._lending.owner(number)
        if owned is None:
            return
        key, call = owned
        if output is None:
            outputs: dict[int, Tensor] = {}
            self._evaluate({0: call}, outputs)
            if key not in self._running:
                return
            output = outputs[0]
        if (complete := self._lending.returned(number, output)) is not None:
            self._resume(*complete)

    def resume(self, key: OpKey) -> None:
        """Go on with a paused run from where it was."""
        if key in self._paused:
            self._running[key] = self._paused.pop(key)

    def passes(self) -> tuple[tuple[ComponentId, int, float], ...]:
        """The latest time of a whole pass, by denoiser and rows, since this was last asked."""
        times, self._times = self._times, {}
        return tuple((component, rows, seconds) for (component, rows), seconds in times.items())

    def turn(self) -> None:
        """Answer the pending request of every run, batching what fits together."""
        rounds: dict[OpKey, list[ModelCall]] = {}
        for key, running in list(self._running.items()):
            if key in self._lending:
                continue
            try:
                rounds[key] = running.run.calls()  # none, where no condition counts at this noise level
            except Exception as error:  # around an operation: its options may be refused here
                self._fail(key, error)
        kept: list[tuple[OpKey, int, ModelCall]] = []
        for key, calls in rounds.items():
            lent = self._lend(key, calls)
            kept += [(key, place, call) for place, call in enumerate(calls) if place not in lent]
        outputs: dict[int, Tensor] = {}
        for members in groups([call for _, _, call in kept]):
            self._evaluate({i: kept[i][2] for i in members}, outputs)
        parts: dict[OpKey, dict[int, Tensor]] = {key: {} for key in rounds}
        for i, output in outputs.items():
            parts[kept[i][0]][kept[i][1]] = output
        for key, part in parts.items():
            if key in self._lending:
                self._lending.kept(key, part)
            elif key in self._running:
                self._resume(key, [part[place] for place in range(len(part))])

    def _lend(self, key: OpKey, calls: Sequence[ModelCall]) -> set[int]:
        """Send the helper its share of a round. Returns: the places of those calls."""
        lent = self._lending.lend(key, calls)
        for number, helper, place in lent:
            loan = loan_of(calls[place], self._running[key].op.guider.model)
            self._report(Lent(number, helper, loan))
        return {place for _, _, place in lent}

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
            results, passes = self._run(self._aside(list(mine.values())), self._max_rows)
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
        if len(passes) == 1:
            component, beside = self._running[ops[0]].op.guider.model.weights.id, passes[0].beside
            self._times[component, passes[0].rows] = seconds - sum(each.seconds for each in beside)
            self._times.update(((each.component, each.rows), each.seconds) for each in beside if each.here)
        outputs.update(zip(mine, results, strict=True))
        for op in ops:
            self._running[op].seconds += seconds / len(ops)

    def _aside(self, calls: list[ModelCall]) -> list[ModelCall]:
        """The calls of a pass, their control models' rows sent to who computes these."""
        helper = self._lending.aside(calls[0].op)
        if helper is None or any(call.op != calls[0].op for call in calls):
            return calls
        there = {
            id(control.network): Elsewhere(control.network, partial(self._ask, helper))
            for call in calls
            for control in call.controls
            if control.network.late
        }

        def moved(control: Control) -> Control:
            return replace(control, network=there.get(id(control.network), control.network))

        return [replace(call, controls=tuple(map(moved, call.controls))) for call in calls]

    def _ask(
        self, helper: DeviceId, weights: Weights, given: ControlInputs
    ) -> Callable[[], Residuals | None]:
        number = self._lending.number()
        self._report(Lent(number, helper, control_loan_of(weights, given)))
        return partial(self._wait, number, helper)

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
            self._lending.forget(key)
            self._report(Ended(key, running.run.result, running.seconds))

    def _preview(self, running: _Running) -> None:
        now = monotonic()
        if running.shown is None or now - running.previewed < _PREVIEW_EVERY:
            return
        running.previewed = now
        image = jpeg(running.run.estimate, running.run.format, running.shown)
        if image is not None:
            self._report(Preview(running.run.key, image))

    def _fail(self, key: OpKey, error: Exception) -> None:
        running = self._running.pop(key)
        self._lending.forget(key)
        running.run.close()
        _log.warning("op %s failed: %s", key, error, exc_info=error)
        self._report(failed(key, error, described(running.op), ()))


def described(op: object) -> dict[str, tuple[object, ...]]:
    """An op's fields, as the inputs of a failure report."""
    if not dataclasses.is_dataclass(op):
        return {}
    return {field.name: (getattr(op, field.name),) for field in dataclasses.fields(op)}
