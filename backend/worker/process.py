"""A worker process: all that it runs is `main`."""

import importlib
import logging
import signal
import sys
from multiprocessing.connection import Connection
from typing import Protocol

from backend.worker.mailbox import Mailbox
from backend.worker.messages import Setup


class _Loop(Protocol):
    def run(self, mailbox: Mailbox, setup: Setup) -> None: ...


def main(descriptor: int) -> None:
    """Run a worker on the inherited connection `descriptor` until the server ends it (`mailbox.py`)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    mailbox = Mailbox(Connection(descriptor))
    setup = mailbox.open()
    logging.basicConfig(
        level=setup.settings.verbose, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # torch loads here, with the mailbox open: a server that ends meanwhile takes this process along.
    loop: _Loop = importlib.import_module("backend.worker.loop")
    loop.run(mailbox, setup)


if __name__ == "__main__":
    main(int(sys.argv[1]))
