"""A worker process runs `main`. The process that workers are forked from runs `nurse`."""

import ctypes
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Protocol

from backend.models.lean import without_extras
from backend.worker.mailbox import Mailbox
from backend.worker.messages import Setup
from backend.worker.nursery import BORN, DIED, NEWS

WORKER, NURSERY = "tessera-worker", "tessera-nursery"  # what tools show; a fork has the server's command line
_SET_NAME = 15  # of prctl


class _Loop(Protocol):
    def run(self, mailbox: Mailbox, setup: Setup) -> None: ...


def main(descriptor: int) -> None:
    """Run a worker on the inherited connection `descriptor` until the server ends it (`mailbox.py`)."""
    _call_it(WORKER)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    mailbox = Mailbox(Connection(descriptor))
    setup = mailbox.open()
    logging.basicConfig(
        level=setup.settings.verbose, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # torch loads here, with the mailbox open: a server that ends meanwhile takes this process along.
    _loaded().run(mailbox, setup)


def _loaded() -> _Loop:
    """The worker's code, with torch and the models'."""
    with without_extras():
        loop: _Loop = importlib.import_module("backend.worker.loop")
    return loop


def nurse(descriptor: int) -> None:
    """Fork a worker for each request on the inherited socket `descriptor`, until the server closes it.

    A request brings two descriptors: the worker's connection, and where its output goes (`nursery.py`).
    """
    _call_it(NURSERY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = socket.socket(fileno=descriptor)
    if not server.recv(1, socket.MSG_PEEK):  # until then nothing is loaded that may not be needed
        os._exit(0)
    _loaded()
    gc.collect()
    gc.freeze()  # a collection in a child would write to every page that it shares
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([descriptor, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _bury(server)
        if descriptor in ready:
            request, descriptors, _, _ = socket.recv_fds(server, 1, 2)
            if not request:
                os._exit(0)
            server.sendall(NEWS.pack(BORN, _fork(server, descriptors), 0))


def _call_it(name: str) -> None:
    """The process's name, at most 15 characters, where the system has such."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_NAME, name.encode(), 0, 0, 0)


def _bury(server: socket.socket) -> None:
    """Tell of every child that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        server.sendall(NEWS.pack(DIED, pid, os.waitstatus_to_exitcode(status)))


def _fork(server: socket.socket, descriptors: Sequence[int]) -> int:
    """A child that is a worker. Returns: its pid."""
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        server.close()
        os.setsid()
        connection, output = descriptors
        os.dup2(output, sys.stdout.fileno())
        os.dup2(output, sys.stderr.fileno())
        os.close(output)
        main(connection)
        code = 0
    except BaseException:  # a fork must never return into the nursery's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
