"""`tessera serve`: open the port, run until a signal, end every process."""

import asyncio
import errno
import ipaddress
import logging
import os
import signal
import socket
import ssl
import webbrowser
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import quote

from aiohttp import web

from backend.errors import TesseraError
from backend.settings import Settings
from backend.worker.exchange import sweep_own
from backend.worker.nursery import Nursery
from web.app import build_app
from web.assembly import assemble
from web.logs import LogBuffer
from web.packs import load_packs

BACKLOG = 512
ENDING = 15.0  # seconds that the orderly end may take
INTERRUPTED = 130  # exit status after a second Ctrl-C
OPEN_TO_ALL = """

    ***  Everybody who reaches %s can use this server  ***

    They can run workflows, read and change saved files, and load the models that are here. If that is not
    what you want, stop the server and start it with one of

        --listen 127.0.0.1        only this machine (the default; from elsewhere: ssh -L 8188:127.0.0.1:8188)
        --auth-token              a new token, printed at the start with the address that signs a browser in
        --auth-token TOKEN        your own; programs send it as `Authorization: Bearer TOKEN`
%s"""
HOW_TLS = """
    and, where the network is not yours, --tls-keyfile and --tls-certfile: a token sent in the clear is seen.
"""
log = logging.getLogger(__name__)


class PortInUse(TesseraError):
    """The address can't be listened on."""

    code = "port_in_use"

    def __init__(self, address: str, port: int, reason: str) -> None:
        self.address, self.port = address, port
        super().__init__(
            f"Can't listen on {address} port {port}: {reason}. Stop what uses it, or choose another --port."
        )


def bind(addresses: Iterable[str], port: int) -> list[socket.socket]:
    """Listening sockets, before anything else is started. A family that the machine lacks is left out.

    Raises: PortInUse.
    """
    bound: list[socket.socket] = []
    for address in addresses:
        try:
            family, _, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
            bound.append(socket.create_server(where[:2], family=family, backlog=BACKLOG))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and ":" in address:
                log.warning("This machine has no IPv6 address %s; it is left out.", address)
                continue
            for other in bound:
                other.close()
            raise PortInUse(address, port, error.strerror or str(error)) from error
        port = port or int(bound[0].getsockname()[1])  # port 0: the system chooses, one for all
    if not bound:
        raise PortInUse(",".join(addresses), port, "no address is left")
    return bound


def start_lines(sockets: Iterable[socket.socket], scheme: str) -> list[str]:
    """What launchers look for, one line per address."""
    names = [sock.getsockname()[:2] for sock in sockets]
    return [f"To see the GUI go to: {scheme}://{f'[{a}]' if ':' in a else a}:{port}" for a, port in names]


def sign_in(line: str, token: str | None) -> str:
    """The address of a start line as a browser on this machine opens it, with the token, if any."""
    address = line.rpartition(" ")[2].replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    return address if token is None else f"{address}/?token={quote(token, safe='')}"


def _is_loopback(sock: socket.socket) -> bool:
    return ipaddress.ip_address(str(sock.getsockname()[0]).partition("%")[0]).is_loopback


async def serve(
    settings: Settings, logs: LogBuffer, nursery: Nursery, *, quiet: bool, launch: bool, once: bool
) -> int:
    """Run the server until SIGINT or SIGTERM. once: end as soon as it is up. Returns: the exit status.

    Raises: PortInUse, FolderInUse, BadFile, StoreFailed, all before anything runs.
    """
    stop = asyncio.Event()
    _on_signals(stop)
    sockets = bind(settings.listen, settings.port)
    assembly = assemble(settings, nursery=nursery)
    app = build_app(assembly.engine, assembly.registry, assembly.storage, settings, logs)
    await load_packs(assembly, app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await assembly.engine.start()
    tls = _tls(settings)
    for sock in sockets:
        await web.SockSite(runner, sock, ssl_context=tls, backlog=BACKLOG).start()
    scheme = "https" if tls else "http"
    lines = start_lines(sockets, scheme)
    if not quiet:
        print(*lines, sep="\n", flush=True)
    if settings.auth_token is not None:
        print(f"Sign in with: {sign_in(lines[0], settings.auth_token)}", flush=True)
    elif open_to := [sock.getsockname()[0] for sock in sockets if not _is_loopback(sock)]:
        log.warning(OPEN_TO_ALL, ", ".join(open_to), "" if tls else HOW_TLS)
    assembly.start_devices()
    if launch:
        await asyncio.to_thread(webbrowser.open, sign_in(lines[0], settings.auth_token))
    if not once:
        await stop.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(ENDING):
            await runner.cleanup()
            await assembly.close()
    return 0


def _on_signals(stop: asyncio.Event) -> None:
    """The first signal ends the server in order, the second at once: workers end with their connection."""

    def signalled() -> None:
        if stop.is_set():
            sweep_own()
            os._exit(INTERRUPTED)
        stop.set()

    for signum in (signal.SIGINT, signal.SIGTERM):
        try:
            asyncio.get_running_loop().add_signal_handler(signum, signalled)
        except NotImplementedError:  # Windows
            signal.signal(signum, lambda *_: asyncio.get_running_loop().call_soon_threadsafe(signalled))


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_certfile is None or settings.tls_keyfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_certfile, settings.tls_keyfile)
    return context
