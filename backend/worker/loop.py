"""The main thread of a worker: between two turns of the step loop it takes mail and at most one whole op."""

import logging
from collections import deque
from dataclasses import replace
from queue import Empty
from time import monotonic, perf_counter

import torch
from torch import Tensor

from backend.components import Loadable
from backend.errors import OutOfMemory
from backend.models.additions import Residuals
from backend.models.hostcopy import host_copies
from backend.ops import DecodeLatent, Denoise
from backend.storage import Storage
from backend.types import DeviceId, OpKey
from backend.values import frozen
from backend.worker import device
from backend.worker.bench import Bench
from backend.worker.borrowed import evaluate, evaluate_control
from backend.worker.exchange import Outputs, Value, prefix, read, remove, write
from backend.worker.execute import concrete, execute, needs, start
from backend.worker.failure import failed, type_name
from backend.worker.ladder import Ladder
from backend.worker.lending import ControlLoan, Loan
from backend.worker.mailbox import Mailbox
from backend.worker.messages import (
    Answer,
    Ask,
    CancelOp,
    Done,
    Evaluate,
    Evaluated,
    Failed,
    LoadComponent,
    Merge,
    OpCancelled,
    Pause,
    Preview,
    Progress,
    Ready,
    Resume,
    RunOp,
    Segment,
    Setup,
    Split,
    Started,
    Table,
    ToWorker,
    Unload,
    Unsplit,
)
from backend.worker.previews import Previews
from backend.worker.residents import Residents
from backend.worker.steploop import Ended, Lent, StepLoop, described

_TABLE_EVERY = 0.5  # seconds between tables while only counters change
_LULL, _NO_LULL = 0.01, 0.001  # seconds without mail or work after which a worker counts as idle
_log = logging.getLogger(__name__)


def run(mailbox: Mailbox, setup: Setup) -> None:
    """Work until the mailbox ends the process."""
    torch.set_num_threads(device.threads(setup))
    with torch.inference_mode():
        Worker(mailbox, setup).run()


@frozen
class _Spent:
    """Seconds of an op that were not its own compute: loading weights, and unpacking and packing values."""

    load: float = 0.0
    transfer: float = 0.0


class Worker:
    """Ops in steps join the step loop when they arrive; whole ones wait, and run one between two turns."""

    def __init__(self, mailbox: Mailbox, setup: Setup) -> None:
        self._mailbox, self._owner = mailbox, setup.owner
        self._device = device.choose(setup.settings, setup.index)
        copies = host_copies(prefix(setup.owner))
        self._residents = Residents(self._device, setup.settings, mailbox.send, copies)
        storage = Storage(setup.settings)
        self._ladder = Ladder(self._residents.memory, self._evict)
        self._bench = Bench(self._residents, self._ladder, lambda name: find_embedding(storage, name))
        self._previews = Previews(storage, self._device)
        rows = device.max_rows(self._device)
        self._steps = StepLoop(rows, self._report, self._ladder.passes, self._wait)
        self._kept: deque[ToWorker] = deque()  # mail that came while something else was waited for
        self._now: object = None  # what is being started, run whole, or loaded
        self._whole: deque[RunOp] = deque()
        self._spent: dict[OpKey, _Spent] = {}  # what running Denoise ops cost before their first step
        self._told, self._told_at = Table(()), -_TABLE_EVERY
        self._lull = _LULL

    def run(self) -> None:
        self._mailbox.send(Ready(device.info(self._device, self._residents.memory), self._mailbox.pid))
        while True:
            self.turn()

    def turn(self) -> None:
        """Take the mail, run one whole op, advance the step loop once."""
        self._take_mail()
        if self._whole:
            self._run_whole(self._whole.popleft())
        if len(self._steps):
            self._steps.turn()
        self._tell()

    def _take_mail(self) -> None:
        """All mail that is there; where there is nothing to do, wait for some."""
        inbox = self._mailbox.inbox
        while self._kept:
            self._obey(self._kept.popleft())
        while not (inbox.empty() and (self._whole or len(self._steps))):
            self._obey(self._next())
            if inbox.empty():
                return

    def _next(self) -> ToWorker:
        """The next message. Where none comes for a while, what the last ops freed goes back to the system."""
        try:
            return self._mailbox.inbox.get(timeout=self._lull)
        except Empty:
            self._residents.memory.rest()
            return self._mailbox.inbox.get()

    def _obey(self, message: ToWorker) -> None:
        match message:
            case RunOp(op=Denoise()):
                self._start(message)
            case RunOp():
                self._whole.append(message)
            case CancelOp(key=key):
                self._cancel(key)
            case Pause(key=key):
                self._steps.pause(key)
            case Resume(key=key):
                self._steps.resume(key)
            case Merge(key=key):
                self._merge(key)
            case Split() | Unsplit() | Evaluate() | Answer():
                self._share(message)
            case LoadComponent(what=what):
                self._load(what)
            case Unload(components=components):
                self._residents.unload(components)
                self._ladder.forget()
                self._tell()

    def _share(self, message: Split | Unsplit | Evaluate | Answer) -> None:
        """What devices compute for each other."""
        match message:
            case Split(key=key, helper=helper, part=part):
                self._steps.split(key, helper, part)
            case Unsplit(key=key, helper=helper):
                self._steps.unsplit(key, helper)
            case Evaluate(number=number, lead=lead, loan=loan):
                self._mailbox.send(Evaluated(number, lead, self._evaluated(loan)))
            case Answer(number=number, output=output):
                answer = None if output is None else _only(output)
                if answer is None or isinstance(answer, Tensor):  # nobody waits for a ControlNet's any more
                    self._steps.answer(number, answer)

    def _wait(self, number: int, helper: DeviceId) -> Residuals | None:
        """What a helper makes of a control loan; None where it can't, or is needed elsewhere. Other mail has
        its turn later.
        """
        while True:
            match message := self._mailbox.inbox.get():
                case Answer(number=answered, output=output) if answered == number:
                    answer = None if output is None else _only(output)
                    return answer if isinstance(answer, Residuals) else None
                case Unsplit(helper=gone) if gone == helper:
                    self._kept.append(message)
                    return None
                case _:
                    self._kept.append(message)

    def _merge(self, key: OpKey) -> None:
        """Let a run have its LoRAs in a copy of the weights, where it is alone in its passes."""
        op = self._steps.op(key)
        if op is not None:
            self._residents.merge(op.guider.model)

    def _load(self, what: Loadable) -> None:
        """Bring in a component that no op has asked for yet."""
        try:
            self._residents.load(what)
        except Exception as error:  # around an operation; the op that needs it will tell its user
            _log.warning("%s was not loaded ahead: %s", what.id, error)
        self._tell()

    def _evict(self, shortage: int | None) -> int:
        """Drop residents that neither a running op uses nor the one at hand."""
        return self._residents.evict(shortage, set(needs((self._now, *self._steps.ops))))

    def _start(self, message: RunOp) -> None:
        """Let a Denoise op join the step loop."""
        self._mailbox.send(Started(message.key))
        op, begun, loading = message.op, perf_counter(), self._residents.load_seconds
        try:
            op = concrete(op, _values(message))
            assert isinstance(op, Denoise)
            unpacked = perf_counter()
            self._now = op
            denoising = start(message.key, op, self._bench)
            self._spent[message.key] = _Spent(self._residents.load_seconds - loading, unpacked - begun)
            shown = self._previews.of(message.preview, message.preview_size, denoising.format.tiny)
            self._steps.add(op, denoising, shown)
        except Exception as error:  # around an operation
            self._spent.pop(message.key, None)
            self._fail(message.key, op, error)
        finally:
            self._now = None

    def _run_whole(self, message: RunOp) -> None:
        self._mailbox.send(Started(message.key))
        op, begun, loading = message.op, perf_counter(), self._residents.load_seconds
        try:
            op = concrete(op, _values(message))
            unpacked = perf_counter()
            self._now = op
            outputs = execute(op, self._bench)
            spent = _Spent(self._residents.load_seconds - loading, unpacked - begun)
            self._done(message.key, outputs, perf_counter() - unpacked - spent.load, spent)
        except Exception as error:  # around an operation
            self._fail(message.key, op, error)
        finally:
            self._now = None
            # A picture goes to the host, and no op for this device comes of it.
            self._lull = _NO_LULL if isinstance(message.op, DecodeLatent) else _LULL

    def _cancel(self, key: OpKey) -> None:
        waiting = next((message for message in self._whole if message.key == key), None)
        if waiting is not None:
            self._whole.remove(waiting)
        self._spent.pop(key, None)
        if waiting is not None or self._steps.cancel(key):
            self._mailbox.send(OpCancelled(key))

    def _evaluated(self, segment: Segment) -> Segment | None:
        """The raw output of another device's call, packed; None where it can't be computed here."""
        try:
            loan = self._now = _only(segment)
            if isinstance(loan, ControlLoan):
                made = evaluate_control(loan, self._bench)
                return write(((made.each(Tensor.cpu),),), self._owner)
            assert isinstance(loan, Loan)
            output = evaluate(loan, self._bench, device.max_rows(self._device))
            return write(((output.cpu(),),), self._owner)
        except Exception as error:  # around an operation: its own device computes it instead
            _log.warning("a call of another device was not computed: %s", error, exc_info=error)
            return None
        finally:
            self._now = None

    def _report(self, report: Progress | Preview | Failed | Ended | Lent) -> None:
        """What the step loop says."""
        if isinstance(report, Failed):
            self._spent.pop(report.key, None)
            self._send_failure(report)
            return
        if isinstance(report, Lent):
            self._mailbox.send(Ask(report.number, report.helper, write(((report.loan,),), self._owner)))
            return
        if not isinstance(report, Ended):
            self._mailbox.send(report)
            return
        spent = self._spent.pop(report.key)
        try:
            self._done(report.key, tuple((latent,) for latent in report.outputs), report.seconds, spent)
        except Exception as error:  # around an operation: shared memory may be full
            self._fail(report.key, None, error)

    def _done(self, key: OpKey, outputs: Outputs, seconds: float, spent: "_Spent") -> None:
        lengths, packing = tuple(len(items) for items in outputs), perf_counter()
        segment = write(outputs, self._owner)
        transfer = spent.transfer + perf_counter() - packing
        self._mailbox.send(Done(key, segment, lengths, seconds, load=spent.load, transfer=transfer))

    def _fail(self, key: OpKey, op: object, error: Exception) -> None:
        _log.warning("op %s failed: %s", key, error, exc_info=error)
        self._send_failure(failed(key, error, described(op), ()))

    def _send_failure(self, failure: Failed) -> None:
        if failure.type == type_name(OutOfMemory):
            self._ladder.gave_up()
        self._mailbox.send(failure)

    def _tell(self) -> None:
        """Send the table when it changed: at once for components, now and then for counters."""
        counters, resident = self._steps.counters, self._residents.table()
        if (
            resident == self._told.resident
            and monotonic() - self._told_at < _TABLE_EVERY
            and len(self._steps)
        ):
            return
        table = Table(
            resident,
            counters.forwards,
            counters.rows,
            counters.shared,
            counters.largest,
            sizes=counters.sizes,
            loads=self._residents.loads,
            relief=self._ladder.relief,
        )
        if table != self._told:
            self._told, self._told_at = table, monotonic()
            info = device.info(self._device, self._residents.memory)
            self._mailbox.send(replace(table, info=info, passes=self._steps.passes()))


def find_embedding(storage: Storage, name: str) -> str | None:
    """The file of `embedding:name` in a prompt, named with or without its ending; None if there is none."""
    found = storage.embedding(name)
    return None if found is None else str(storage.find("embeddings", found))


def _only(segment: Segment) -> object:
    """The one value of a segment that is read once. Raises: BadSegment."""
    try:
        ((value,),) = read(segment)
    finally:
        remove(segment)
    return value


def _values(message: RunOp) -> dict[OpKey, Value]:
    return {key: Value.attach(segment) for key, segment in message.inputs.items()}
