"""What the engine tells the edge. Plain values; `web/socket.py` turns them into ComfyUI's messages.

`client` is the websocket that submitted the job (None: submitted without one). Times are epoch milliseconds.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from backend.types import ClientId, JobId, NodeId
from backend.values import frozen


@frozen
class NodeProgress:
    """One node of a job as `progress_state` shows it."""

    node: NodeId
    state: Literal["running", "finished"]
    value: float = 0.0
    max: float = 1.0
    display_node: NodeId | None = None  # None: the node itself
    parent_node: NodeId | None = None
    real_node: NodeId | None = None


@frozen
class QueueChanged:
    remaining: int


@frozen
class JobStarted:
    job: JobId
    client: ClientId | None
    at: int


@frozen
class NodesCached:
    job: JobId
    client: ClientId | None
    nodes: tuple[NodeId, ...]
    at: int


@frozen
class StateChanged:
    """All nodes of the job that are not pending, in the order they began."""

    job: JobId
    client: ClientId | None
    nodes: tuple[NodeProgress, ...]


@frozen
class NodeExecuting:
    """node None: the job has ended (the last event of every job)."""

    job: JobId
    client: ClientId | None
    node: NodeId | None
    display_node: NodeId | None = None


@frozen
class StepProgress:
    job: JobId
    client: ClientId | None
    node: NodeId
    value: float
    max: float


@frozen
class PreviewImage:
    job: JobId
    client: ClientId | None
    node: NodeId
    image: bytes
    format: Literal["JPEG", "PNG"] = "JPEG"


@frozen
class NodeExecuted:
    """ui None: a cached output node that never had any."""

    job: JobId
    client: ClientId | None
    node: NodeId
    ui: Mapping[str, object] | None
    display_node: NodeId | None = None


@frozen
class NodeBlocked:
    """A blocker's message: told like an error, while the job goes on."""

    job: JobId
    client: ClientId | None
    node: NodeId
    node_type: str
    executed: tuple[NodeId, ...]
    message: str


@frozen
class ClientMessage:
    """What a node's code sends. client None: to all."""

    client: ClientId | None
    type: str
    data: object


@frozen
class NodeText:
    """A text that a node's code shows on a node. client None: to all."""

    client: ClientId | None
    node: NodeId
    text: str


@frozen
class JobSucceeded:
    job: JobId
    client: ClientId | None
    at: int


@frozen
class JobFailed:
    job: JobId
    client: ClientId | None
    node: NodeId
    node_type: str
    executed: tuple[NodeId, ...]
    message: str
    type: str
    traceback: tuple[str, ...]
    inputs: Mapping[str, tuple[str | int | float | None, ...]] | None  # None: no call was made
    outputs: tuple[NodeId, ...]
    at: int


@frozen
class JobInterrupted:
    job: JobId
    client: ClientId | None
    node: NodeId
    node_type: str
    executed: tuple[NodeId, ...]
    at: int


Event: TypeAlias = (
    QueueChanged
    | JobStarted
    | NodesCached
    | StateChanged
    | NodeExecuting
    | StepProgress
    | PreviewImage
    | NodeExecuted
    | NodeBlocked
    | ClientMessage
    | NodeText
    | JobSucceeded
    | JobFailed
    | JobInterrupted
)
