"""What one job tells its client, as if it ran alone: node by node, in ComfyUI's order of events."""

from collections.abc import Callable, Mapping, Sequence

from backend.engine.clock import Clock
from backend.engine.events import (
    Event,
    JobFailed,
    JobInterrupted,
    JobStarted,
    JobSucceeded,
    NodeExecuted,
    NodeExecuting,
    NodeProgress,
    NodesCached,
    PreviewImage,
    StateChanged,
    StepProgress,
)
from backend.types import ClientId, JobId, NodeId
from backend.worker.messages import Failed, PictureFormat

Emit = Callable[[Event], None]


class Narrator:
    """Emits a job's events and keeps what its history entry says.

    executed: nodes that ran, in order; outputs: ui by node; running: the last begun of those not ended.
    """

    def __init__(self, job: JobId, client: ClientId | None, emit: Emit, clock: Clock) -> None:
        self._job, self._client, self._emit, self._clock = job, client, emit, clock
        self._nodes: dict[NodeId, NodeProgress] = {}
        self.executed: list[NodeId] = []
        self.outputs: dict[str, Mapping[str, object]] = {}
        self.messages: list[tuple[str, dict[str, object]]] = []

    @property
    def running(self) -> NodeId | None:
        return next((id for id in reversed(self._nodes) if self._nodes[id].state == "running"), None)

    @property
    def meta(self) -> dict[str, dict[str, object]]:
        """The history's `meta`: which node each output belongs to."""
        return {
            id: {"node_id": id, "display_node": id, "parent_node": None, "real_node_id": id}
            for id in self.outputs
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
        self._emit(NodeExecuted(self._job, self._client, id, ui, id))
        self._set(NodeProgress(id, "finished", 1.0, 1.0))

    def node_running(self, id: NodeId) -> None:
        if id not in self._nodes:
            self._set(NodeProgress(id, "running"))
            self._emit(NodeExecuting(self._job, self._client, id, id))

    def node_progress(self, id: NodeId, value: int, maximum: int) -> None:
        self._set(NodeProgress(id, "running", value, maximum))
        self._emit(StepProgress(self._job, self._client, id, value, maximum))

    def node_preview(self, id: NodeId, image: bytes, format: PictureFormat = "JPEG") -> None:
        self._emit(PreviewImage(self._job, self._client, id, image, format))

    def node_finished(self, id: NodeId, ui: Mapping[str, object] | None = None) -> None:
        self.node_running(id)
        if ui is not None:
            self.outputs[id] = ui
            self._emit(NodeExecuted(self._job, self._client, id, ui, id))
        self.executed.append(id)
        last = self._nodes[id]
        self._set(NodeProgress(id, "finished", last.max, last.max))

    def succeeded(self) -> None:
        at = self._clock.epoch_ms()
        self._emit(JobSucceeded(self._job, self._client, at))
        self.messages.append(("execution_success", {"prompt_id": self._job, "timestamp": at}))

    def failed(
        self, id: NodeId, class_type: str, error: Failed, outputs: Sequence[NodeId]
    ) -> dict[str, object]:
        """outputs: all nodes that have a part in the run. Returns: the error as the history shows it."""
        message = error.message.rstrip("\n") + "\n"  # clients know it with a newline
        at = self._clock.epoch_ms()
        event = JobFailed(
            self._job,
            self._client,
            id,
            class_type,
            tuple(self.executed),
            message,
            error.type,
            error.traceback,
            error.inputs,
            tuple(outputs),
            at,
        )
        self._emit(event)
        told: dict[str, object] = {
            "prompt_id": self._job,
            "node_id": id,
            "node_type": class_type,
            "executed": list(event.executed),
            "exception_message": message,
            "exception_type": error.type,
            "traceback": list(error.traceback),
            "current_inputs": {name: list(texts) for name, texts in error.inputs.items()},
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

    def _set(self, progress: NodeProgress) -> None:
        self._nodes[progress.node] = progress
        self._emit(StateChanged(self._job, self._client, tuple(self._nodes.values())))
