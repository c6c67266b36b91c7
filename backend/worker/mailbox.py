"""A worker's connection to its server, and its end with it.

A thread takes the mail; when the connection closes, the server is gone or wants no more of this worker, and
the process ends at once, whatever it computes. So no worker lives on without its server, and `Stop` needs no
answer.
"""

import os
import pickle
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue

from backend.worker.messages import FromWorker, Setup, Stop, ToWorker

_PARENT_CHECK = 2.0  # seconds between looks whether the server lives: a fork of it may hold the connection


class Mailbox:
    """Mail from the server, in order; and the way back. `send` is safe from several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._server = connection, os.getppid()
        self._lock = threading.Lock()
        self.pid = os.getpid()
        self.inbox: SimpleQueue[ToWorker] = SimpleQueue()

    def open(self) -> Setup:
        """Wait for the setup, then take mail in the background."""
        setup = self._receive()
        assert isinstance(setup, Setup)
        threading.Thread(target=self._take, name="mailbox", daemon=True).start()
        return setup

    def send(self, message: FromWorker) -> None:
        with self._lock:
            try:
                self._connection.send_bytes(pickle.dumps(message, protocol=5))
            except OSError:
                os._exit(0)

    def _take(self) -> None:
        while not isinstance(message := self._receive(), Stop):
            assert not isinstance(message, Setup)
            self.inbox.put(message)
        os._exit(0)

    def _receive(self) -> "Setup | ToWorker":
        """The next message. Ends the process when there will be none."""
        try:
            while not self._connection.poll(_PARENT_CHECK):
                if os.getppid() != self._server:
                    os._exit(0)
            message: Setup | ToWorker = self._connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        return message
