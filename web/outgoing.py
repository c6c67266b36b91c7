"""What waits to be sent to one websocket client.

Every client has a bounded queue and a task that empties it. A client that falls behind gets only the newest
progress, preview and status; one that does not read at all is dropped.
"""

import asyncio
import itertools
import logging
import struct
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from backend.types import ClientId

SOFT_LIMIT = 64  # waiting frames, from which on replaceable ones replace each other
HARD_LIMIT = 4096  # waiting frames at which a client is given up
HARD_BYTES = 512 << 20  # only pictures that a node sends reach it
BURST = 64 << 10  # bytes of frames that are sent in one piece

log = logging.getLogger(__name__)
FrameKind = tuple[str, ...]


class Frame:
    """One message, encoded. replaces: frames of equal value stand for each other, the newest wins.

    head: what makes a whole websocket frame of the data, final, unmasked and uncompressed (RFC 6455, 5.2).
    """

    __slots__ = ("binary", "data", "head", "replaces")

    def __init__(self, data: bytes, binary: bool = False, replaces: FrameKind | None = None) -> None:
        self.data, self.binary, self.replaces = data, binary, replaces
        opcode, size = 0x82 if binary else 0x81, len(data)
        if size < 126:
            self.head = bytes((opcode, size))
        elif size < 1 << 16:
            self.head = struct.pack("!BBH", opcode, 126, size)
        else:
            self.head = struct.pack("!BBQ", opcode, 127, size)


@dataclass(slots=True, eq=False)
class Client:
    """One open websocket: what it announced, and what still has to be sent to it."""

    sid: ClientId
    socket: web.WebSocketResponse
    transport: asyncio.BaseTransport | None
    wants_metadata: bool = False
    greeted: bool = False  # its first frame was read
    waiting: dict[int | FrameKind, Frame] = field(default_factory=dict)
    waiting_bytes: int = 0
    waited: bool = False  # so it was when it was looked at last, and nothing was sent since
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    serial: "itertools.count[int]" = field(default_factory=itertools.count)

    def put(self, frame: Frame) -> None:
        """Queue a frame, and have what waits sent."""
        self.put_by(frame)
        self.wake.set()

    def put_by(self, frame: Frame) -> None:
        """Queue a frame that goes with the next one; never waits. Drops the client when it has let too much
        pile up.
        """
        if frame.replaces is None or len(self.waiting) < SOFT_LIMIT:
            self.waiting[next(self.serial)] = frame
        else:
            if old := self.waiting.pop(frame.replaces, None):
                self.waiting_bytes -= len(old.data)
            self.waiting[frame.replaces] = frame
        self.waiting_bytes += len(frame.data)
        if self.waiting_bytes > HARD_BYTES or len(self.waiting) > HARD_LIMIT:
            log.warning("Websocket client %s does not read its messages; it was disconnected.", self.sid)
            self.waiting.clear()
            self.waiting_bytes = 0
            if self.transport is not None:
                self.transport.abort()  # type: ignore[attr-defined]  # every socket transport has it

    def send_now(self) -> None:
        """Send what waits without a turn of the event loop in between, where the client keeps up."""
        if not self._send_together():
            self.wake.set()

    async def send_waiting(self) -> None:
        """Send whatever is queued, for as long as the socket is open."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.waiting:
                if not self._send_together():
                    frame = self.waiting.pop(next(iter(self.waiting)))
                    self.waiting_bytes -= len(frame.data)
                    kind = WSMsgType.BINARY if frame.binary else WSMsgType.TEXT
                    await self.socket.send_frame(frame.data, kind)  # waits where the client is slow

    def _send_together(self) -> bool:
        """Send all that waits in one piece, where it is little and the client keeps up: events come in
        bursts, and each write of its own costs as much as making the event did.
        """
        transport = self.transport
        if self.waiting_bytes > BURST or self.socket.closed:
            return False
        if not isinstance(transport, asyncio.WriteTransport) or transport.get_write_buffer_size():
            return False
        transport.write(b"".join([part for f in self.waiting.values() for part in (f.head, f.data)]))
        self.waiting.clear()
        self.waiting_bytes = 0
        self.waited = False
        return True
