"""JobRecord: a job as it is kept. JobSummary: the part of it that lists show."""

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import Literal, TypeAlias

from backend.errors import GraphError
from backend.types import ClientId, JobId, NodeId
from backend.values import frozen

JobStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
SortBy = Literal["created_at", "execution_duration"]
SortOrder = Literal["asc", "desc"]
Json: TypeAlias = Mapping[str, object]

# Of `extra_data`: for one run's eyes only. Never stored, never shown.
SECRETS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})
_MEDIA = frozenset({"images", "video", "audio"})
_MODELS = (".obj", ".fbx", ".gltf", ".glb", ".usdz", ".stl", ".ply", ".spz", ".splat", ".ksplat")


@frozen
class JobRecord:
    """A submitted prompt and what became of it.

    id is the client's and need not be unique; sequence, the order of arrival, is. number: its place in the
    queue, smaller first, then by sequence. prompt: API format, values coerced; extra: the request's
    `extra_data`; targets: the output nodes to run. Times are epoch milliseconds. outputs: node id -> ui;
    meta: node id -> whose output it is; messages: (event, data) pairs, None until the job has ended; error:
    the data of `execution_error`.
    """

    id: JobId
    number: float
    sequence: int
    prompt: Json
    targets: tuple[NodeId, ...]
    created: int
    client: ClientId | None = None
    extra: Json = field(default_factory=dict)
    status: JobStatus = "pending"
    started: int | None = None
    ended: int | None = None
    outputs: Json = field(default_factory=dict)
    meta: Json = field(default_factory=dict)
    messages: tuple[tuple[str, Json], ...] | None = None
    error: Json | None = None

    @property
    def workflow_id(self) -> str | None:
        """`extra_pnginfo.workflow.id`: which of the user's workflows this was."""
        info = self.extra.get("extra_pnginfo")
        workflow = info.get("workflow") if isinstance(info, dict) else None
        id = workflow.get("id") if isinstance(workflow, dict) else None
        return None if id is None else str(id)

    @property
    def outputs_count(self) -> int:
        return sum(1 for _ in _items(self.outputs))

    @property
    def preview_output(self) -> Json | None:
        """The output to show for the whole job: a saved file before a temporary one, then the first."""
        shown = [(node, kind, item) for node, kind, item in _items(self.outputs) if _previewable(kind, item)]
        best = next((s for s in shown if s[2].get("type") == "output"), shown[0] if shown else None)
        return None if best is None else {**best[2], "nodeId": best[0], "mediaType": best[1]}

    def summary(self) -> "JobSummary":
        return JobSummary(
            self.id,
            self.sequence,
            self.number,
            self.status,
            self.created,
            self.started,
            self.ended,
            self.outputs_count,
            self.workflow_id,
            self.preview_output,
            self.error,
        )


@frozen
class JobSummary:
    """A job in a list: JobRecord's fields of the same names."""

    id: JobId
    sequence: int
    number: float
    status: JobStatus
    created: int
    started: int | None
    ended: int | None
    outputs_count: int
    workflow_id: str | None
    preview_output: Json | None
    error: Json | None


def without_secrets(record: JobRecord) -> JobRecord:
    if SECRETS.isdisjoint(record.extra):
        return record
    return replace(record, extra={key: value for key, value in record.extra.items() if key not in SECRETS})


def refused_error(record: JobRecord, refused: GraphError) -> Json:
    """A stored job that can run no longer, in the shape of an `execution_error`."""
    return {
        "prompt_id": record.id,
        "node_id": refused.node or record.targets[0],
        "node_type": "",
        "executed": [],
        "exception_message": f"{refused}\n",
        "exception_type": type(refused).__name__,
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
    }


def _items(outputs: Json) -> Iterator[tuple[str, str, Json]]:
    """(node, key, item) of every listed output; texts count too, as an item without keys."""
    for node, ui in outputs.items():
        for kind, items in ui.items() if isinstance(ui, Mapping) else ():
            if kind != "animated" and isinstance(items, (list, tuple)):
                yield from ((node, kind, item if isinstance(item, Mapping) else {}) for item in items)


def _previewable(kind: str, item: Json) -> bool:
    form, name = item.get("format"), item.get("filename")
    if not isinstance(name, str):
        return False
    moving = isinstance(form, str) and form.startswith(("video/", "audio/"))
    return kind in _MEDIA or moving or name.lower().endswith(_MODELS)
