"""ComfyUI's `comfy_execution.progress`, as far as nodes report theirs."""

from abc import ABC
from enum import Enum
from typing import TypedDict

from comfy_compat.progress import report_progress


class NodeState(Enum):
    Pending = "pending"
    Running = "running"
    Finished = "finished"
    Error = "error"


class NodeProgressState(TypedDict):
    state: NodeState
    value: float
    max: float


class ProgressHandler(ABC):
    """Base of handlers; the server's own tell clients."""

    def __init__(self, name):
        self.name = name
        self.enabled = True

    def enable(self):
        self.enabled = True

    def disable(self):
        self.enabled = False


class ProgressRegistry:
    """Where nodes report."""

    def __init__(self):
        self.handlers = {}
        self.nodes = {}

    def register_handler(self, handler):
        self.handlers[handler.name] = handler

    def unregister_handler(self, handler_name):
        self.handlers.pop(handler_name, None)

    def update_progress(self, node_id, value, max_value, image=None):
        report_progress(value, max_value, node_id, image)

    def start_progress(self, node_id):
        """The server knows."""

    def finish_progress(self, node_id):
        """The server knows."""


_registry = ProgressRegistry()


def get_progress_state():
    return _registry


def add_progress_handler(handler):
    _registry.register_handler(handler)
