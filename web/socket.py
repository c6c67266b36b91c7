"""Engine events -> ComfyUI's websocket messages: who hears what, in which order, never slowing the engine.

`outgoing.py` has what waits for each client.
"""

import asyncio
import json
import socket as socket_module
import struct
import uuid
from collections.abc import Iterable
from typing import Protocol, TypeAlias, assert_never

from aiohttp import WSMsgType, web

from backend.engine import events as ev
from backend.jsontext import dump
from backend.types import ClientId, JobId, NodeId
from web import wire
from web.logs import LogEntry
from web.outgoing import Client, Frame, FrameKind

COMPANY = 0.02  # seconds, up to twice as many, that a frame waits for others which nobody is in a hurry for
LONGEST_HEARD = 1 << 20  # bytes of a client's message: they announce flags, nothing else
SILENCE, PROBES, BETWEEN = 60, 4, 15  # seconds until a silent peer is probed, probes, seconds between them
HOLD = 0.05  # seconds that a preview waits for its step's `progress`
PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # ComfyUI's numbers of binary frames
_IMAGE_FORMATS = {"JPEG": (1, "image/jpeg"), "PNG": (2, "image/png")}

Private: TypeAlias = (
    ev.JobStarted
    | ev.NodesCached
    | ev.NodeExecuting
    | ev.NodeExecuted
    | ev.NodeBlocked
    | ev.JobSucceeded
    | ev.JobFailed
)


class Work(Protocol):
    """What a new connection is told about the engine."""

    def remaining(self) -> int: ...
    def running_node(self, client: ClientId) -> NodeId | None: ...


class Sockets:
    """All websocket clients, by sid."""

    def __init__(self, features: dict[str, object], work: Work) -> None:
        self._features, self._work = features, work
        self._clients: dict[ClientId, Client] = {}
        self._log_readers: set[ClientId] = set()
        self._shown: dict[JobId, ev.StateChanged] = {}  # the last one of each running job
        self._held: dict[JobId, tuple[ev.PreviewImage, asyncio.TimerHandle]] = {}
        self._company: asyncio.TimerHandle | None = None

    # -- connections -----------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """GET /ws: greet, replay what runs, then send events until the client goes."""
        socket = web.WebSocketResponse(compress=False, max_msg_size=LONGEST_HEARD)
        await socket.prepare(request)
        _keep_alive(request.transport)
        sid = ClientId(request.query.get("clientId") or uuid.uuid4().hex)
        client = Client(sid, socket, request.transport)
        self._replay(client)
        self._clients[sid] = client  # a second connection of a sid takes over
        sender = asyncio.create_task(client.send_waiting())
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._hear(client, message.data)
        finally:
            sender.cancel()
            if self._clients.get(sid) is client:
                del self._clients[sid]
                self._log_readers.discard(sid)
        return socket

    def _replay(self, client: Client) -> None:
        """The queue, the node that runs, and how far each running job of this client is.

        ComfyUI tells the first two only; a page that was reloaded shows its progress by the third.
        """
        client.put(_text("status", wire.status(self._work.remaining(), client.sid)))
        if (node := self._work.running_node(client.sid)) is not None:
            client.put(_text("executing", {"node": node}))
        for state in self._shown.values():
            if state.client == client.sid:
                client.put(_text("progress_state", wire.progress_state(state)))

    async def close(self) -> None:
        """Close every connection, as the server stops."""
        await asyncio.gather(
            *(c.socket.close(code=1001, message=b"server stops") for c in self._clients.values())
        )

    def _hear(self, client: Client, text: str) -> None:
        """Only a client's first valid frame counts, and only if it announces feature flags."""
        if client.greeted:
            return
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        client.greeted = True
        if isinstance(message, dict) and message.get("type") == "feature_flags":
            flags = message.get("data")
            client.wants_metadata = isinstance(flags, dict) and flags.get("supports_preview_metadata") is True
            client.put(_text("feature_flags", self._features))

    # -- sending ---------------------------------------------------------------------------------

    def send(self, event: str, data: object, sid: ClientId | None = None) -> None:
        """Any JSON event, to one client or to all: what node packs use."""
        _put(self._to(sid), _text(event, data))

    def send_text(self, text: str, node: NodeId, sid: ClientId | None = None) -> None:
        """A text shown on a node."""
        name = node.encode()
        _put(self._to(sid), Frame(struct.pack(">II", TEXT, len(name)) + name + text.encode(), binary=True))

    def send_binary(self, kind: int, data: bytes, sid: ClientId | None = None) -> None:
        """A binary frame of ComfyUI's numbering, to one client or to all: what node packs use."""
        _put(self._to(sid), Frame(struct.pack(">I", kind) + data, binary=True))

    def subscribe_logs(self, sid: ClientId, enabled: bool) -> None:
        """Start or stop sending log lines to a client."""
        if enabled and sid in self._clients:
            self._log_readers.add(sid)
        else:
            self._log_readers.discard(sid)

    def on_log(self, entry: LogEntry) -> None:
        """Pass a log line on. Runs on the event loop's thread."""
        if self._log_readers:
            frame = _text("logs", wire.log_lines([entry], None))
            _put([self._clients[sid] for sid in self._log_readers if sid in self._clients], frame)

    def _to(self, sid: ClientId | None) -> list[Client]:
        """The client of that sid; everybody where there is none."""
        if sid is None:
            return list(self._clients.values())
        client = self._clients.get(sid)
        return [] if client is None else [client]

    # -- engine events ---------------------------------------------------------------------------

    def on_event(self, event: ev.Event) -> None:
        """Translate an event and queue it for those who may see it. Never waits."""
        match event:
            case ev.StateChanged():
                self._show_last_preview(event)
                self._shown[event.job] = event
                if targets := self._to(event.client):
                    data = wire.progress_state(event)
                    self._put_soon(targets, _text("progress_state", data, ("progress_state", event.job)))
            case ev.QueueChanged():
                if self._clients:
                    status = _text("status", wire.status(event.remaining), ("status",))
                    self._put_soon(self._clients.values(), status)
            case ev.PreviewImage():
                self._hold(event)
            case ev.StepProgress():
                self._step(event)
            case ev.ClientMessage():
                self.send(event.type, event.data, event.client)
            case ev.NodeText():
                self.send_text(event.text, event.node, event.client)
            case ev.JobInterrupted():
                self._show_held(event.job)
                _put(
                    self._to(event.client), _text("execution_interrupted", wire.execution_interrupted(event))
                )
            case _:
                self._private(event)

    def _put_soon(self, clients: Iterable[Client], frame: Frame) -> None:
        """Each write costs, and what a change brings comes right behind: a small job is told in one piece,
        and with it how those of others went.
        """
        for client in clients:
            client.put_by(frame)
        if self._company is None:
            self._company = asyncio.get_running_loop().call_later(COMPANY, self._send_waited)

    def _send_waited(self) -> None:
        self._company = None
        for client in self._clients.values():
            if client.waited:
                client.send_now()
            client.waited = bool(client.waiting)
            if client.waited and self._company is None:
                self._company = asyncio.get_running_loop().call_later(COMPANY, self._send_waited)

    def _step(self, event: ev.StepProgress) -> None:
        """`progress`, between the two forms of a preview."""
        held = self._release(event.job)
        if held is not None:
            self._preview(held)
        if targets := self._to(event.client):
            _put(targets, _text("progress", wire.progress(event), ("progress", event.job, event.node)))
        if held is not None:
            self._legacy_preview(held)

    def _private(self, event: Private) -> None:
        """Events that only the submitting client sees, and nobody where it gave no sid."""
        self._show_held(event.job)
        last = isinstance(event, ev.NodeExecuting) and event.node is None
        if last:
            self._shown.pop(event.job, None)
        client = self._clients.get(event.client) if event.client is not None else None
        if client is not None:
            self._put_soon((client,), _text(*_worded(event)))
            if last:
                client.send_now()

    def _show_last_preview(self, event: ev.StateChanged) -> None:
        """A preview that waits for a node's step comes before the node's end."""
        held = self._held.get(event.job) if self._held else None
        if held is None:
            return
        ended = (n.node for n in event.nodes if n.state == "finished")
        if held[0].node in ended:
            self._show_held(event.job)

    def _hold(self, event: ev.PreviewImage) -> None:
        """Keep a preview for a moment: its step's `progress` belongs between its two forms."""
        self._release(event.job)
        if self._to(event.client):
            timer = asyncio.get_running_loop().call_later(HOLD, self._show_held, event.job)
            self._held[event.job] = event, timer

    def _release(self, job: JobId) -> ev.PreviewImage | None:
        held = self._held.pop(job, None)
        if held is None:
            return None
        held[1].cancel()
        return held[0]

    def _show_held(self, job: JobId) -> None:
        if self._held and (held := self._release(job)) is not None:
            self._preview(held)
            self._legacy_preview(held)

    def _preview(self, event: ev.PreviewImage) -> None:
        """The form with metadata, for those who announced it."""
        targets = [c for c in self._to(event.client) if c.wants_metadata]
        if not targets:
            return
        shown = self._shown.get(event.job)
        place = next((n for n in shown.nodes if n.node == event.node), None) if shown else None
        about = dump(wire.preview_metadata(event, place, _IMAGE_FORMATS[event.format][1]))
        head = struct.pack(">II", PREVIEW_WITH_METADATA, len(about))
        _put(targets, Frame(head + about + event.image, True, _replaces(event)))

    def _legacy_preview(self, event: ev.PreviewImage) -> None:
        """The bare form, for those who announced nothing."""
        targets = [c for c in self._to(event.client) if not c.wants_metadata]
        if targets:
            head = struct.pack(">II", PREVIEW, _IMAGE_FORMATS[event.format][0])
            _put(targets, Frame(head + event.image, True, _replaces(event)))


def _worded(event: Private) -> tuple[str, object]:
    """An event's name and data."""
    match event:
        case ev.NodeExecuting():
            return "executing", wire.executing(event)
        case ev.NodeExecuted():
            return "executed", wire.executed(event)
        case ev.JobStarted():
            return "execution_start", wire.execution_start(event)
        case ev.NodesCached():
            return "execution_cached", wire.execution_cached(event)
        case ev.JobSucceeded():
            return "execution_success", wire.execution_success(event)
        case ev.NodeBlocked():
            return "execution_error", wire.execution_blocked(event)
        case ev.JobFailed():
            return "execution_error", wire.execution_error(event)
        case _:
            assert_never(event)


def _replaces(event: ev.PreviewImage) -> FrameKind | None:
    """A preview stands for those before it; a PNG is a result, and each is wanted."""
    return ("preview", event.job, event.node) if event.format == "JPEG" else None


def _keep_alive(transport: asyncio.BaseTransport | None) -> None:
    """Let the system find out when a peer's machine is gone. No pings: a script that does not read for
    minutes, and so answers none, is alive all the same.
    """
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None or not hasattr(socket_module, "TCP_KEEPIDLE"):
        return
    for option, value in (("TCP_KEEPIDLE", SILENCE), ("TCP_KEEPINTVL", BETWEEN), ("TCP_KEEPCNT", PROBES)):
        connection.setsockopt(socket_module.IPPROTO_TCP, getattr(socket_module, option), value)


def _text(event: str, data: object, replaces: FrameKind | None = None) -> Frame:
    return Frame(dump({"type": event, "data": data}), replaces=replaces)


def _put(clients: Iterable[Client], frame: Frame) -> None:
    for client in clients:
        client.put(frame)
