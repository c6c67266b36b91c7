"""What one job tells its client, as if it ran alone: node by node, in ComfyUI's order of events."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from backend.engine.clock import Clock
from backend.engine.events import (
    Event,
    JobFailed,
    JobInterrupted,
    JobStarted,
    JobSucceeded,
    NodeBlocked,
    NodeExecuted,
    NodeExecuting,
    NodeProgress,
    NodesCached,
    PreviewImage,
    StateChanged,
    StepProgress,
)
from backend.graph.dynamic import Place
from backend.types import ClientId, JobId, NodeId
from backend.worker.messages import Failed, Preview

NodeState = Literal["running", "finished"]
Emit = Callable[[Event], None]


def shown_type(name: str) -> str:
    """The name of an exception's class for clients, who know ComfyUI's: its own nodes raise plain Exceptions,
    and the front end has advice for `OOMError`. Ours says more in its message.
    """
    if name == "backend.errors.OutOfMemory":
        return "OOMError"
    return "Exception" if name.startswith("backend.") else name


class Narrator:
    """Emits a job's events and keeps what its history entry says.

    executed: nodes that ran, in order; outputs: ui by node; running: the last begun of those not ended;
    places: where the nodes show that came by expansion.
    """

    def __init__(self, job: JobId, client: ClientId | None, emit: Emit, clock: Clock) -> None:
        self._job, self._client, self._emit, self._clock = job, client, emit, clock
        self._nodes: dict[NodeId, NodeProgress] = {}
        self.places: dict[NodeId, Place] = {}
        self.executed: list[NodeId] = []
        self.outputs: dict[str, Mapping[str, object]] = {}
        self.messages: list[tuple[str, dict[str, object]]] = []

    @property
    def running(self) -> NodeId | None:
        return next((id for id in reversed(self._nodes) if self._nodes[id].state == "running"), None)

    @property
    def shown(self) -> NodeId | None:
        """The node that `running` shows on."""
        running = self.running
        return None if running is None else self._display(running)

    @property
    def meta(self) -> dict[str, dict[str, object]]:
        """The history's `meta`: which node each output belongs to."""
        return {id: self._meta(NodeId(id)) for id in self.outputs}

    def _meta(self, id: NodeId) -> dict[str, object]:
        place = self.places.get(id) or Place(id, None, id)
        return {
            "node_id": id,
            "display_node": place.display,
            "parent_node": place.parent,
            "real_node_id": place.real,
        }

    def started(self, cached: Sequence[NodeId]) -> None:
        at = self._clock.epoch_ms()
        self._emit(JobStarted(self._job, self._client, at))
        self.messages.append(("execution_start", {"prompt_id": self._job, "timestamp": at}))
        at = self._clock.epoch_ms()
        self._emit(NodesCached(self._job, self._client, tuple(cached), at))
        self.messages.append(
            ("execution_cached", {"nodes": list(cached), "prompt_id": self._job, "timestamp": at})
        )

    def node_cached(self, id: NodeId, ui: Mapping[str, object] | None) -> None:
        """A cached output node shows its result again."""
        if ui is not None:
            self.outputs[id] = ui
        self._emit(NodeExecuted(self._job, self._client, id, ui, self._display(id)))
        self._set(id, "finished", 1.0, 1.0)

    def node_running(self, id: NodeId) -> None:
        if id not in self._nodes:
            self.node_resumed(id)

    def node_resumed(self, id: NodeId) -> None:
        """A node begins, or begins once more with inputs that it asked for."""
        self._set(id, "running", 0.0, 1.0)
        self._emit(NodeExecuting(self._job, self._client, id, self._display(id)))

    def node_progress(self, id: NodeId, value: float, maximum: float) -> None:
        self._set(id, "running", value, maximum)
        self._emit(StepProgress(self._job, self._client, id, value, maximum))

    def node_preview(self, id: NodeId, preview: Preview) -> None:
        self._emit(PreviewImage(self._job, self._client, id, preview.image, preview.format))

    def node_shows(self, id: NodeId, ui: Mapping[str, object] | None) -> None:
        """What a node shows, be it that it isn't finished yet."""
        if ui is not None:
            self.outputs[id] = ui
            self._emit(NodeExecuted(self._job, self._client, id, ui, self._display(id)))

    def node_blocked(self, id: NodeId, class_type: str, message: str) -> None:
        """A node wasn't called for a blocker with a message. The job goes on; its history says nothing."""
        executed = tuple(self.executed)
        self._emit(
            NodeBlocked(self._job, self._client, id, class_type, executed, f"Execution Blocked: {message}")
        )

    def node_finished(self, id: NodeId, ui: Mapping[str, object] | None = None) -> None:
        self.node_running(id)
        self.node_shows(id, ui)
        self.executed.append(id)
        last = self._nodes[id]
        self._set(id, "finished", last.max, last.max)

    def succeeded(self) -> None:
        at = self._clock.epoch_ms()
        self._emit(JobSucceeded(self._job, self._client, at))
        self.messages.append(("execution_success", {"prompt_id": self._job, "timestamp": at}))

    def failed(
        self, id: NodeId, class_type: str, error: Failed, outputs: Sequence[NodeId]
    ) -> dict[str, object]:
        """outputs: all nodes that have a part in the run. Returns: the error as the history shows it."""
        message = error.message
        if error.inputs is not None:  # clients know what a node raised with a newline
            message = message.rstrip("\n") + "\n"
        at = self._clock.epoch_ms()
        event = JobFailed(
            self._job,
            self._client,
            id,
            class_type,
            tuple(self.executed),
            message,
            shown_type(error.type),
            error.traceback,
            error.inputs,
            tuple(outputs),
            at,
        )
        self._emit(event)
        inputs = error.inputs
        told: dict[str, object] = {
            "prompt_id": self._job,
            "node_id": id,
            "node_type": class_type,
            "executed": list(event.executed),
            "exception_message": message,
            "exception_type": shown_type(error.type),
            "traceback": list(error.traceback),
            "current_inputs": [] if inputs is None else {name: list(texts) for name, texts in inputs.items()},
            "current_outputs": list(outputs),
            "timestamp": at,
        }
        self.messages.append(("execution_error", told))
        return told

    def interrupted(self, id: NodeId, class_type: str) -> None:
        at = self._clock.epoch_ms()
        self._emit(JobInterrupted(self._job, self._client, id, class_type, tuple(self.executed), at))
        told = {
            "prompt_id": self._job,
            "node_id": id,
            "node_type": class_type,
            "executed": list(self.executed),
            "timestamp": at,
        }
        self.messages.append(("execution_interrupted", told))

    def ended(self) -> None:
        self._emit(NodeExecuting(self._job, self._client, None))

    def _display(self, id: NodeId) -> NodeId:
        place = self.places.get(id)
        return id if place is None else place.display

    def _set(self, id: NodeId, state: NodeState, value: float, maximum: float) -> None:
        place = self.places.get(id)
        if place is None:
            progress = NodeProgress(id, state, value, maximum)
        else:
            progress = NodeProgress(id, state, value, maximum, place.display, place.parent, place.real)
        self._nodes[id] = progress
        self._emit(StateChanged(self._job, self._client, tuple(self._nodes.values())))
