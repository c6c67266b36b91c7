"""The server's last log lines, for the front end's console."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime

from backend.values import frozen

KEPT = 300  # lines, as many as ComfyUI keeps


@frozen
class LogEntry:
    """time: ISO 8601, local; message: one line with its newline."""

    time: str
    message: str


class LogBuffer(logging.Handler):
    """Keeps the last lines and tells a listener of each new one, on the event loop's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: deque[LogEntry] = deque(maxlen=KEPT)
        self._listener: Callable[[LogEntry], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, from any thread."""
        time = datetime.fromtimestamp(record.created).isoformat()
        entry = LogEntry(time, self.format(record) + "\n")
        self.entries.append(entry)
        if self._listener is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._listener, entry)

    def listen(self, listener: Callable[[LogEntry], None], loop: asyncio.AbstractEventLoop) -> None:
        """Tell `listener` of every line from now on."""
        self._listener, self._loop = listener, loop

    def silence(self) -> None:
        """Tell no one any more, as the loop ends."""
        self._listener = self._loop = None
