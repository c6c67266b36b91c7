"""The server's end of a worker process: starts it, packs what it is to read, and reports what it says.

Nothing here blocks the event loop: one thread per worker starts and reads the process, one packs and sends,
one hands its output to the log. The process has its own interpreter and shares nothing but the connection.
"""

import logging
import os
import pickle
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import IO

import psutil

from backend.components import Loadable
from backend.ops import Op
from backend.settings import Settings
from backend.types import ComponentId, DeviceId, OpKey, Part
from backend.values import frozen
from backend.worker.exchange import Value
from backend.worker.failure import failed
from backend.worker.messages import (
    Answer,
    CancelOp,
    DeviceInfo,
    Done,
    Evaluate,
    Finished,
    FromWorker,
    LoadComponent,
    Lost,
    Merge,
    Pause,
    Ready,
    Report,
    Resume,
    RunOp,
    Segment,
    Setup,
    Split,
    Stop,
    Stored,
    ToWorker,
    Unload,
    Unsplit,
)
from backend.worker.nursery import Child, spawn

_log = logging.getLogger(__name__)
_LAST_WORDS = 20  # lines of output that the reason of a loss quotes
_GRACE = 5.0  # seconds between the end of the connection and the kill


@frozen
class _ToRun:
    key: OpKey
    op: Op[object]
    inputs: Mapping[OpKey, Stored]
    preview: str
    preview_size: int


class WorkerProcess:
    """One worker process. report is called from its threads: Ready, then reports on ops, and one Lost at the
    end.

    Lost does not follow `stop`, which alone waits. index, of `count` workers, chooses the device; start makes
    the process on its end of the connection: at once, or, where `idle` says what the device is before, when
    there is work for it or `wake` says that there will be. Whether a lost worker is replaced is the engine's
    decision: by a new WorkerProcess.
    """

    def __init__(
        self,
        id: DeviceId,
        settings: Settings,
        index: int,
        report: Callable[[DeviceId, Report], None],
        count: int = 1,
        start: Callable[[int], Child] = spawn,
        idle: DeviceInfo | None = None,
    ) -> None:
        self.id = id
        self._report, self._make, self._idle = report, start, idle
        self._awake = threading.Event()
        self._outbox: SimpleQueue[_ToRun | Setup | ToWorker | None] = SimpleQueue()
        self._outbox.put(Setup(settings, index, count, os.getpid()))
        self._lock = threading.Lock()
        self._process: Child | None = None
        self._stopped = self._killed = False
        self._ended = threading.Event()
        self._output: deque[str] = deque(maxlen=_LAST_WORDS)
        self._listener = threading.Thread(target=self._listen, name=f"log-{id}", daemon=True)
        threading.Thread(target=self._live, name=f"worker-{id}", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The process's id; None until it was started."""
        return self._process.pid if self._process else None

    def run(
        self,
        key: OpKey,
        op: Op[object],
        inputs: Mapping[OpKey, Stored],
        preview: str = "none",
        preview_size: int = 512,
    ) -> None:
        """Start an op. inputs: the result of every op that it refers to; keep them until it has ended."""
        self.wake()
        self._outbox.put(_ToRun(key, op, inputs, preview, preview_size))

    def cancel(self, key: OpKey) -> None:
        """End an op at its next step; an op that runs whole ends when it ends. OpCancelled tells."""
        self._outbox.put(CancelOp(key))

    def abandon(self, key: OpKey) -> None:
        """End an op that does not confirm its cancellation, with the process that runs it. Lost tells."""
        self.kill()

    def unload(self, components: Sequence[ComponentId] | None = None) -> None:
        """Drop the named resident components, or all."""
        if self._awake.is_set():
            self._outbox.put(Unload(None if components is None else tuple(components)))

    def wake(self) -> None:
        """Start the process, if it was not: models will be used soon."""
        self._awake.set()

    def load(self, what: Loadable) -> None:
        """Bring in a component before an op asks for it. Loaded tells."""
        self.wake()
        self._outbox.put(LoadComponent(what))

    def pause(self, key: OpKey) -> None:
        """Stop a Denoise op after its current step and keep its state."""
        self._outbox.put(Pause(key))

    def resume(self, key: OpKey) -> None:
        """Go on with an op that was paused."""
        self._outbox.put(Resume(key))

    def merge(self, key: OpKey) -> None:
        """Make a copy of the weights with a Denoise op's LoRAs in them."""
        self._outbox.put(Merge(key))

    def split(self, key: OpKey, helper: DeviceId, part: Part) -> None:
        """Let another device compute a share of a Denoise op's calls, or its ControlNets. Ask tells."""
        self._outbox.put(Split(key, helper, part))

    def unsplit(self, key: OpKey, helper: DeviceId) -> None:
        """Go on without that helper."""
        self._outbox.put(Unsplit(key, helper))

    def evaluate(self, number: int, lead: DeviceId, loan: Segment) -> None:
        """Compute a call for the device `lead`. Evaluated tells."""
        self._outbox.put(Evaluate(number, lead, loan))

    def answer(self, number: int, output: Segment | None) -> None:
        """What came of a call that this device lent."""
        self._outbox.put(Answer(number, output))

    def stop(self) -> None:
        """End the process and wait until it has ended; no Lost follows."""
        self._stopped = True
        self._outbox.put(Stop())
        if self._process is None:
            self.kill()  # it ends as soon as it has begun
        if not self.wait(_GRACE):
            self.kill()
            self.wait(_GRACE)

    def kill(self) -> None:
        """End the process by force, also one that was not started yet.

        Lost follows, unless it was stopped.
        """
        with self._lock:
            self._killed = True
            self.wake()
            if self._process is not None:
                self._process.kill()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the process's end. Returns: whether it ended."""
        return self._ended.wait(timeout)

    def _live(self) -> None:
        """The reader thread: the process from its start to its end."""
        if self._idle is None:
            self.wake()
        else:
            self._report(self.id, Ready(self._idle, 0))
            self._awake.wait()
        try:
            connection, reason = self._start(), ""
        except OSError as error:
            connection, reason = None, f"it could not be started: {error}"
        if connection is not None:
            threading.Thread(target=self._send, args=(connection,), name=f"to-{self.id}", daemon=True).start()
            self._read(connection)
            reason = self._bury()
            self._outbox.put(None)
            connection.close()
        self._ended.set()
        if not self._stopped:
            self._report(self.id, Lost(reason))

    def _start(self) -> Connection | None:
        """Start the process. None: it was killed before."""
        if self._killed:
            return None
        ours, theirs = Pipe()
        with theirs:
            process = self._make(theirs.fileno())
        with self._lock:  # who kills from now on, finds it
            self._process = process
            if self._killed:
                process.kill()
        self._listener.start()
        return ours

    def _read(self, connection: Connection) -> None:
        while True:
            try:
                message: FromWorker = connection.recv()
            except (EOFError, OSError):
                return
            if isinstance(message, Done):
                value = Value.attach(message.value)
                finished = Finished(
                    message.key,
                    value,
                    message.lengths,
                    message.seconds,
                    message.ui,
                    message.load,
                    message.transfer,
                )
                self._report(self.id, finished)
            elif not isinstance(message, Ready) or self._idle is None:
                self._report(self.id, message)

    def _send(self, connection: Connection) -> None:
        """The sender thread: packs values, which may copy gigabytes, and writes messages."""
        while (item := self._outbox.get()) is not None:
            try:
                message = self._packed(item) if isinstance(item, _ToRun) else item
                # Not `send`: its pickler leaves tensors to torch's sharing server, and there is none.
                data = pickle.dumps(message, protocol=5)
            except Exception as error:  # around an operation: a value that can't be packed fails its op alone
                if not isinstance(item, _ToRun):
                    raise
                _log.warning("op %s can't be sent to worker %s", item.key, self.id, exc_info=error)
                self._report(self.id, failed(item.key, error, {}, (__file__,)))
                continue
            try:
                connection.send_bytes(data)
            except OSError:  # the process closed it, or `stop` did
                return  # the reader reports the loss, of this op too

    def _packed(self, item: _ToRun) -> RunOp:
        segments = {key: value.segment() for key, value in item.inputs.items()}
        return RunOp(item.key, item.op, segments, item.preview, item.preview_size)

    def _listen(self) -> None:
        """The log thread: the process's output, line by line, into the server's log."""
        assert self._process is not None
        assert self._process.stdout is not None
        stream: IO[bytes] = self._process.stdout
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if text:
                self._output.append(text)
                _log.info("[%s] %s", self.id, text)
        stream.close()

    def _bury(self) -> str:
        """Wait for the end of a process that closed its connection.

        Returns: how it ended, and its last words.
        """
        assert self._process is not None
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._listener.join(_GRACE)
        return "; ".join([_ending(code), *self._output])


def idle_cpu(settings: Settings) -> DeviceInfo:
    """A CPU before anything is computed on it. Equal to what its worker will say, without torch."""
    memory = psutil.virtual_memory()
    most = min(memory.total, settings.worker_memory or memory.total)
    free = min(memory.available, most)
    return DeviceInfo("cpu", "cpu", None, most, free, most, free)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
