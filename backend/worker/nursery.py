"""Worker processes: started anew, or forked from one that has loaded torch and the models' code already.

Loading that takes about five seconds of one core; a fork takes hundredths of a second and shares the memory
of what was loaded. That process in turn is forked from the server while this has but torch, and one thread,
so that what torch takes is there once. With a GPU each worker is started anew: its driver does not survive
a fork.
"""

import gc
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Protocol

_log = logging.getLogger(__name__)
_ROOT = Path(__file__).parents[2]  # the folder that holds the package `backend`
# -P and append: neither the user's working folder nor ours may shadow an installed module.
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from backend.worker.process import {0}; {0}(int(sys.argv[2]))"
)
NEWS = struct.Struct("<cii")  # what the nursery says: BORN or DIED, pid, exit code
BORN, DIED = b"b", b"d"
_GRACE = 0.5  # seconds that the nursery has for an orderly end
_LOOK = 0.01  # seconds between two looks whether a process has ended
_LAST_WORDS = 20  # lines of output that an error quotes


class Child(Protocol):
    """A process as `subprocess.Popen` shows it."""

    @property
    def pid(self) -> int: ...

    @property
    def stdout(self) -> IO[bytes] | None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def spawn(connection: int) -> Child:
    """Start a worker on its end of a connection, in a new interpreter. Raises: OSError."""
    return _started("main", connection)


class Fork:
    """A child of the nursery."""

    def __init__(self, pid: int, stdout: IO[bytes], ends: "_Ends") -> None:
        self.pid, self.stdout, self._ends = pid, stdout, ends

    def kill(self) -> None:
        if self._ends.of(self.pid) is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises: TimeoutExpired."""
        return self._ends.wait(self.pid, timeout)


class Nursery:
    """Forks workers. Its process is started by the first `fork`, and anew by the next where it has ended.

    Where it ends, its children end with it. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._stopped = False

    @classmethod
    def early(cls, nurse: Callable[[int], None]) -> "Nursery":
        """With its process forked from this one now, after torch was loaded; it loads the rest when the first
        worker is wanted. For Linux, while there is no other thread. nurse: what it runs (`process.py`).
        """
        nursery = cls()
        nursery._line = _Line(partial(_forked, nurse))
        return nursery

    def fork(self, connection: int) -> Child:
        """Start a worker on its end of a connection. Waits while the nursery loads. Raises: OSError."""
        with self._lock:
            line = self._running()
            ours, theirs = os.pipe()
            try:
                socket.send_fds(line.socket, [b"f"], [connection, theirs])
                pid = line.born.get()
            except OSError:
                pid = None
            finally:
                os.close(theirs)
        if pid is None:
            os.close(ours)
            raise OSError(f"the process that workers are forked from has ended: {line.last_words}")
        return Fork(pid, os.fdopen(ours, "rb"), line.ends)

    def hang_up(self) -> None:
        """Fork no more, and let the process end, with what is left of its children."""
        self._stopped = True
        if self._line is not None:
            self._line.hang_up()

    def stop(self) -> None:
        """Hang up, and wait until the process has ended."""
        self.hang_up()
        if self._line is not None:
            self._line.end()

    def _running(self) -> "_Line":
        if self._stopped:
            raise OSError("the server is ending")
        if self._line is None or self._line.broken:
            self._line = _Line(partial(_started, "nurse"))
        return self._line


class _Ends:
    """Exit codes of the nursery's children, as they become known."""

    def __init__(self) -> None:
        self._codes: dict[int, int] = {}
        self._changed = threading.Condition()
        self._closed = False

    def of(self, pid: int) -> int | None:
        with self._changed:
            return self._codes.get(pid, -signal.SIGKILL if self._closed else None)

    def add(self, pid: int, code: int) -> None:
        with self._changed:
            self._codes[pid] = code
            self._changed.notify_all()

    def close(self) -> None:
        """The nursery is gone, and its children with it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, pid: int, timeout: float | None) -> int:
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or pid in self._codes, timeout):
                raise subprocess.TimeoutExpired(f"worker {pid}", timeout or 0.0)
            return self._codes.get(pid, -signal.SIGKILL)


class _Line:
    """One nursery process and the socket to it.

    born: pids in the order of requests; None: there will be no more.
    """

    def __init__(self, start: Callable[[int], Child]) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self._process = start(theirs.fileno())
        self.born: SimpleQueue[int | None] = SimpleQueue()
        self.ends = _Ends()
        self.broken = False
        self._output: deque[str] = deque(maxlen=_LAST_WORDS)
        self._listener = threading.Thread(target=self._listen, name="log-nursery", daemon=True)
        self._listener.start()
        threading.Thread(target=self._read, name="nursery", daemon=True).start()

    @property
    def last_words(self) -> str:
        self._listener.join(1.0)
        return "; ".join(self._output) or "it said nothing"

    def hang_up(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Wait for the end; a process that is too busy to notice (it loads for seconds) is killed."""
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        with suppress(OSError):
            while len(news := self.socket.recv(NEWS.size, socket.MSG_WAITALL)) == NEWS.size:
                kind, pid, code = NEWS.unpack(news)
                if kind == BORN:
                    self.born.put(pid)
                else:
                    self.ends.add(pid, code)
        self.broken = True
        self.ends.close()
        self.born.put(None)
        self._process.wait()
        self.socket.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                text = line.decode(errors="replace").rstrip()
                self._output.append(text)
                _log.info("[nursery] %s", text)


class _Twin:
    """A child of this very process."""

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid, self.stdout = pid, stdout
        self._lock = threading.RLock()
        self._code: int | None = None

    def kill(self) -> None:
        with self._lock:
            if self._ended() is None:
                os.kill(self.pid, signal.SIGKILL)  # until it is waited for, the id is no other process's

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises: TimeoutExpired."""
        last = inf if timeout is None else time.monotonic() + timeout
        while (code := self._ended()) is None:
            if time.monotonic() > last:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(_LOOK)
        return code

    def _ended(self) -> int | None:
        with self._lock:
            if self._code is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._code = os.waitstatus_to_exitcode(status) if pid else None
            return self._code


def _forked(run: Callable[[int], None], descriptor: int) -> _Twin:
    """This process again, as it is, to run a function on a descriptor."""
    gc.collect()
    gc.freeze()  # a collection would write to every page that both share
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return _Twin(pid, os.fdopen(ours, "rb"))
    try:
        os.setsid()  # Ctrl-C in a terminal is for the server, which ends its workers
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        os.dup2(theirs, sys.stdout.fileno())
        os.dup2(theirs, sys.stderr.fileno())
        for name in os.listdir("/proc/self/fd"):
            if int(name) > sys.stderr.fileno() and int(name) != descriptor:
                with suppress(OSError):  # the one of the listing is closed already
                    os.close(int(name))
        run(descriptor)
    except BaseException:  # a fork must never return into the server's code
        traceback.print_exc()
    finally:
        os._exit(1)


def _started(function: str, descriptor: int) -> subprocess.Popen[bytes]:
    """A new interpreter that runs a function of `process.py` on an inherited descriptor."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT.format(function), str(_ROOT), str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(descriptor,),
        start_new_session=True,  # Ctrl-C in a terminal is for the server, which ends its workers
    )
