"""What shims of ComfyUI's modules are handed, each as its global `bridge`: the server behind them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from backend.registry import Registry
from backend.settings import Settings
from backend.storage import Storage

OnPrompt = Callable[[dict[str, object]], dict[str, object]]  # a request's JSON, before and after


class Messenger(Protocol):
    """Pushes of node packs to clients; callable from any thread."""

    def send(self, event: str, data: object, sid: str | None) -> None:
        """A JSON event under the pack's own name; to everybody where `sid` is None."""

    def send_text(self, text: str, node: str, sid: str | None) -> None:
        """A text shown on a node."""

    def send_binary(self, kind: int, data: bytes, sid: str | None) -> None:
        """A binary frame of ComfyUI's numbering."""


class Silent:
    """Where nobody listens: a run without a server."""

    def send(self, event: str, data: object, sid: str | None) -> None:
        """Dropped."""

    def send_text(self, text: str, node: str, sid: str | None) -> None:
        """Dropped."""

    def send_binary(self, kind: int, data: bytes, sid: str | None) -> None:
        """Dropped."""


@dataclass(slots=True, eq=False)
class Bridge:
    """The server as third-party code sees it.

    classes: node classes of packs by name, as packs' own mappings have them; display_names: their titles;
    on_prompt: handlers that may rewrite a request before it is queued; web: a pack's name -> the folder of
    its scripts.
    """

    registry: Registry
    storage: Storage
    settings: Settings
    messenger: Messenger = field(default_factory=Silent)
    classes: dict[str, type] = field(default_factory=dict)
    display_names: dict[str, str] = field(default_factory=dict)
    web: dict[str, str] = field(default_factory=dict)
    module_dirs: dict[str, str] = field(default_factory=dict)
    on_prompt: list[OnPrompt] = field(default_factory=list)
    queue: Callable[[], tuple[list[object], list[object]]] = field(default=lambda: ([], []))
    files: dict[str, str] = field(default_factory=dict)  # module names of packs -> their files
    services: Mapping[type, object] = field(default_factory=dict)  # what built-in nodes are handed
