"""A real server process for tests: `tessera serve` on a free port, driven over its own HTTP."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from backend.worker.process import WORKER

TESSERA = Path(sys.executable).parent / "tessera"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass(slots=True)
class Server:
    """`tessera serve` on `base`. Use it as a context manager; what it says lies in `base`/server.log."""

    base: Path
    flags: tuple[str, ...] = ("--cpu", "--force-fp32")
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    context: ssl.SSLContext | None = None  # where it serves https

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.base / "server.log").read_text(errors="replace")

    def start(self, timeout: float = 200.0) -> Self:
        """Start the process and wait until it answers."""
        self.base.mkdir(parents=True, exist_ok=True)
        command = [
            str(TESSERA),
            "serve",
            "--base-directory",
            str(self.base),
            "--port",
            str(self.port),
            *self.flags,
        ]
        begun = time.monotonic()
        with (self.base / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while time.monotonic() < begun + timeout:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log[-3000:]}")
            if self.answers():
                return self
            time.sleep(0.05)
        self.stop()
        raise TimeoutError(f"the server did not answer within {timeout} s:\n{self.log[-3000:]}")

    def stop(self, signum: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """End the server by a signal; its status. Raises TimeoutExpired where it had to be killed."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- HTTP --------------------------------------------------------------------------------

    def answers(self) -> bool:
        try:
            self.get("/system_stats", timeout=5)
        except urllib.error.HTTPError as refusal:
            return refusal.code == 401  # it wants a token, and so it runs
        except (urllib.error.URLError, OSError, ValueError):
            return False
        return True

    def get(self, path: str, timeout: float = 60.0) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=timeout, context=self.context) as reply:
            return json.load(reply)

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return bytes(reply.read())

    def post(self, path: str, value: object) -> tuple[int, Any]:
        """Status and JSON of the answer, errors included."""
        request = urllib.request.Request(
            self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, _json(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())

    # -- jobs --------------------------------------------------------------------------------

    def submit(self, prompt: Mapping[str, object], **more: object) -> str:
        """Queue a prompt; its id. Raises AssertionError with the answer where it is refused."""
        status, answer = self.post("/prompt", {"prompt": prompt, **more})
        assert status == 200, json.dumps(answer)[:2000]
        return str(answer["prompt_id"])

    def finished(self, job: str, timeout: float = 300.0) -> dict[str, Any]:
        """The history entry of a job, once it has ended."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if entry := self.get(f"/history/{job}"):
                return dict(entry[job])
            assert self.process is None or self.process.poll() is None, (
                f"the server ended:\n{self.log[-3000:]}"
            )
            time.sleep(0.02)
        raise TimeoutError(f"job {job} did not end within {timeout} s:\n{self.log[-3000:]}")

    def run(self, prompt: Mapping[str, object], timeout: float = 300.0) -> dict[str, Any]:
        """Queue a prompt and wait for its end: its history entry."""
        return self.finished(self.submit(prompt), timeout)

    def outputs(self, entry: Mapping[str, Any], kind: str = "images") -> list[Path]:
        """The files that a job's output nodes saved, in node order."""
        found = [item for node in entry["outputs"].values() for item in node.get(kind, [])]
        return [self.base / item["type"] / item["subfolder"] / item["filename"] for item in found]

    def processes(self) -> list[psutil.Process]:
        """The server's process and all below it."""
        assert self.process is not None
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """Processes of devices, those still starting included; not the one that they may be forked from."""
        below = [(p, p.name(), " ".join(p.cmdline())) for p in self.processes()[1:]]
        return [p for p, name, line in below if name == WORKER or "process import main" in line]


def error_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a job's `execution_error` message; empty where it had none."""
    messages = entry["status"]["messages"]
    return next((dict(data) for event, data in messages if event == "execution_error"), {})


def succeeded(entry: Mapping[str, Any]) -> bool:
    return bool(entry["status"]["status_str"] == "success")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
