"""Typed values -> the JSON that ComfyUI's clients read. Only here are the names in our replies spelled."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlencode

from backend.engine import events as ev
from backend.engine.assets import PLACES, Asset
from backend.engine.jobs import Accepted
from backend.engine.record import SECRETS, JobRecord, JobStatus, JobSummary
from backend.engine.view import PoolView
from backend.errors import GraphError
from backend.graph.validate import NodeErrors, Refused
from backend.jsontext import dump_text
from backend.schedule.forecast import Forecast
from backend.types import ClientId, JobId, NodeId
from backend.worker.messages import DeviceInfo
from comfy_compat.pack_files import Pack
from web.logs import LogEntry
from web.side_folders import Subgraph

Json = dict[str, object]

# What clients call the states of a job.
STATUSES: Mapping[str, JobStatus] = {
    "pending": "pending",
    "in_progress": "running",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
_STATUS_NAMES = {status: name for name, status in STATUSES.items()}


# -- websocket messages ------------------------------------------------------------------------------


def status(remaining: int, sid: ClientId | None = None) -> Json:
    """sid: only in a socket's first frame."""
    data: Json = {"status": exec_info(remaining)}
    return data if sid is None else {**data, "sid": sid}


def exec_info(remaining: int) -> Json:
    return {"exec_info": {"queue_remaining": remaining}}


def execution_start(event: ev.JobStarted) -> Json:
    return {"prompt_id": event.job, "timestamp": event.at}


def execution_cached(event: ev.NodesCached) -> Json:
    return {"nodes": event.nodes, "prompt_id": event.job, "timestamp": event.at}


def execution_success(event: ev.JobSucceeded) -> Json:
    return {"prompt_id": event.job, "timestamp": event.at}


def execution_interrupted(event: ev.JobInterrupted) -> Json:
    return {
        "prompt_id": event.job,
        "node_id": event.node,
        "node_type": event.node_type,
        "executed": event.executed,
        "timestamp": event.at,
    }


def execution_error(event: ev.JobFailed) -> Json:
    return {
        "prompt_id": event.job,
        "node_id": event.node,
        "node_type": event.node_type,
        "executed": event.executed,
        "exception_message": event.message,
        "exception_type": event.type,
        "traceback": event.traceback,
        "current_inputs": [] if event.inputs is None else dict(event.inputs),
        "current_outputs": event.outputs,
        "timestamp": event.at,
    }


def execution_blocked(event: ev.NodeBlocked) -> Json:
    """A blocker's message: an error by its looks, that ends nothing."""
    return {
        "prompt_id": event.job,
        "node_id": event.node,
        "node_type": event.node_type,
        "executed": list(event.executed),
        "exception_message": event.message,
        "exception_type": "ExecutionBlocked",
        "traceback": [],
        "current_inputs": [],
        "current_outputs": [],
    }


def executing(event: ev.NodeExecuting) -> Json:
    if event.node is None:
        return {"node": None, "prompt_id": event.job}
    return {"node": event.node, "display_node": event.display_node or event.node, "prompt_id": event.job}


def executed(event: ev.NodeExecuted) -> Json:
    return {
        "node": event.node,
        "display_node": event.display_node or event.node,
        "output": None if event.ui is None else dict(event.ui),
        "prompt_id": event.job,
    }


def progress(event: ev.StepProgress) -> Json:
    return {"value": event.value, "max": event.max, "prompt_id": event.job, "node": event.node}


def progress_state(event: ev.StateChanged) -> Json:
    nodes = {
        node.node: {
            "value": node.value,
            "max": node.max,
            "state": node.state,
            "node_id": node.node,
            "prompt_id": event.job,
            "display_node_id": node.display_node or node.node,
            "parent_node_id": node.parent_node,
            "real_node_id": node.real_node or node.node,
        }
        for node in event.nodes
    }
    return {"prompt_id": event.job, "nodes": nodes}


def preview_metadata(event: ev.PreviewImage, place: ev.NodeProgress | None, mime: str) -> Json:
    """place: where the node stands in the prompt, if that is known."""
    return {
        "node_id": event.node,
        "prompt_id": event.job,
        "display_node_id": (place and place.display_node) or event.node,
        "parent_node_id": place and place.parent_node,
        "real_node_id": (place and place.real_node) or event.node,
        "image_type": mime,
    }


def log_lines(entries: Iterable[LogEntry], size: tuple[int, int] | None) -> Json:
    """size: columns and rows of the server's terminal."""
    shown = None if size is None else {"cols": size[0], "rows": size[1]}
    return {"entries": [{"t": e.time, "m": e.message} for e in entries], "size": shown}


# -- prompts -----------------------------------------------------------------------------------------


def accepted(answer: Accepted) -> Json:
    return {
        "prompt_id": answer.id,
        "number": number(answer.number),
        "node_errors": node_errors(answer.node_errors),
    }


def refused(error: Refused) -> Json:
    return {"error": graph_error(error), "node_errors": node_errors(error.node_errors)}


def bad_submission(code: str, message: str, details: str) -> Json:
    """A refusal of POST /prompt that comes before the prompt is read."""
    error: Json = {"type": code, "message": message, "details": details, "extra_info": {}}
    return {"error": error, "node_errors": {}}


def graph_error(error: GraphError) -> Json:
    return {
        "type": error.code,
        "message": error.message,
        "details": error.details,
        "extra_info": error.extra,
    }


def node_errors(errors: Mapping[NodeId, NodeErrors]) -> Json:
    return {
        node: {
            "errors": [graph_error(e) for e in found.errors],
            "dependent_outputs": found.dependents,
            "class_type": found.class_type,
        }
        for node, found in errors.items()
    }


def number(value: float) -> float | int:
    """A queue number: whole ones without a fraction, as clients know them."""
    return int(value) if value.is_integer() else value


# -- queue, history, jobs ------------------------------------------------------------------------------


def queue(running: Sequence[JobRecord], pending: Sequence[JobRecord]) -> Json:
    return {
        "queue_running": [queue_item(r) for r in running],
        "queue_pending": [queue_item(r) for r in pending],
    }


def queue_item(record: JobRecord) -> list[object]:
    return [number(record.number), record.id, dict(record.prompt), public(record.extra), list(record.targets)]


def public(extra: Mapping[str, object]) -> Json:
    """`extra_data` without what is for one run's eyes only."""
    return {key: value for key, value in extra.items() if key not in SECRETS}


def history(records: Iterable[JobRecord]) -> Json:
    return {record.id: history_entry(record) for record in records}


def history_entry(record: JobRecord) -> Json:
    return {
        "prompt": queue_item(record),
        "outputs": dict(record.outputs),
        "status": execution_status(record),
        "meta": dict(record.meta),
    }


def execution_status(record: JobRecord) -> Json:
    """How a finished job ended; an interrupted one counts as an error.

    ComfyUI's history calls a run a success whose expanded nodes wait for each other; its message tells.
    """
    circle = (record.error or {}).get("exception_type") == "graph.DependencyCycleError"
    done = record.status == "completed" or circle
    messages = [[event, data] for event, data in record.messages or ()]
    return {"status_str": "success" if done else "error", "completed": done, "messages": messages}


def jobs_page(
    jobs: Sequence[JobSummary],
    total: int,
    limit: int,
    offset: int,
    forecasts: Mapping[JobId, Forecast] = MappingProxyType({}),
) -> Json:
    """forecasts: of jobs that are not over."""
    page = {"offset": offset, "limit": limit, "total": total, "has_more": offset + len(jobs) < total}
    return {"jobs": [job(j, forecasts.get(j.id)) for j in jobs], "pagination": page}


def job(summary: JobSummary, forecast: Forecast | None = None) -> Json:
    """A job in a list: what is not known yet is left out."""
    known: Json = {
        "execution_start_time": summary.started,
        "execution_end_time": summary.ended,
        "preview_output": summary.preview_output,
        "execution_error": summary.error,
        "workflow_id": summary.workflow_id,
        "estimate": None if forecast is None else estimate(forecast),
    }
    return {
        "id": summary.id,
        "status": _STATUS_NAMES[summary.status],
        "priority": number(summary.number),
        "create_time": summary.created,
        "outputs_count": summary.outputs_count,
        **{name: value for name, value in known.items() if value is not None},
    }


def estimate(forecast: Forecast) -> Json:
    """Our own: seconds from now until a job is over."""
    return {name: round(value, 2) for name, value in asdict(forecast).items()}


def job_detail(record: JobRecord, forecast: Forecast | None = None) -> Json:
    """One job; the outputs and the end of it only once it has ended."""
    extra = {"create_time": record.created, **public(record.extra)}
    shown = {
        **job(record.summary(), forecast),
        "workflow": {"prompt": dict(record.prompt), "extra_data": extra},
    }
    if record.messages is not None:
        shown |= {"outputs": dict(record.outputs), "execution_status": execution_status(record)}
    return shown


# -- files -------------------------------------------------------------------------------------------


def uploaded(name: str, subfolder: str, kind: str) -> Json:
    return {"name": name, "subfolder": subfolder, "type": kind}


def file_info(path: Path, name: str) -> Json:
    """name: what the client calls it, with forward slashes."""
    stat = path.stat()
    return {"path": name, "size": stat.st_size, "modified": stat.st_mtime, "created": stat.st_ctime}


def directory_entry(path: Path, name: str) -> Json:
    """One entry of /v2/userdata."""
    if path.is_dir():
        return {"name": path.name, "path": name, "type": "directory"}
    stat = path.stat()
    shown: Json = {"name": path.name, "path": name, "type": "file"}
    return {**shown, "size": stat.st_size, "modified": stat.st_mtime}


def model_folder(name: str, folders: Sequence[Path]) -> Json:
    return {"name": name, "folders": [str(f) for f in folders]}


def model_file(name: str, folder_index: int, path: Path) -> Json:
    """name: relative to the folder of that index."""
    stat = path.stat()
    return {
        "name": name,
        "pathIndex": folder_index,
        "modified": stat.st_mtime,
        "created": stat.st_ctime,
        "size": stat.st_size,
    }


# -- server ------------------------------------------------------------------------------------------


def system_stats(system: Json, devices: Iterable[DeviceInfo]) -> Json:
    return {"system": system, "devices": [device(d) for d in devices]}


def device(info: DeviceInfo) -> Json:
    return {
        "name": info.name,
        "type": info.type,
        "index": info.index,
        "vram_total": info.total,
        "vram_free": info.free,
        "torch_vram_total": info.torch_total,
        "torch_vram_free": info.torch_free,
    }


def pool(view: PoolView) -> Json:
    """Our own route: the dataclasses' own names, so nothing is spelled here twice."""
    return asdict(view)


def subgraph(found: Subgraph) -> Json:
    """A pack's blueprint, with its workflow as a text."""
    pack = f"custom_nodes.{found.pack}"
    return {"source": "custom_node", "name": found.name, "info": {"node_pack": pack}, "data": found.data}


def users(names: Mapping[str, str]) -> Json:
    return {"storage": "server", "users": dict(names)}


def single_user(*, migrated: bool) -> Json:
    """migrated: whether the user has a folder here yet."""
    return {"storage": "server", "migrated": migrated}


def asset(job: str, node: str, key: str, index: int, item: Mapping[str, object]) -> Json:
    """One file that a job saved. preview_url is relative, for pages below a path."""
    query = urlencode({name: item.get(name, "") for name in ("filename", "subfolder", "type")})
    return {
        "id": f"{job}:{node}:{key}:{index}",
        "name": item["filename"],
        "preview_url": f"api/view?{query}",
        "node_id": node,
        "output_key": key,
        "output_index": index,
    }


def assets_page(job: str, assets: Sequence[Json], limit: int, offset: int) -> Json:
    shown = assets[offset : offset + limit]
    more = offset + len(shown) < len(assets)
    page = {"offset": offset, "limit": limit, "total": len(assets), "has_more": more}
    return {"job_id": job, "assets": shown, "pagination": page}


def held_asset(asset: Asset, **more: object) -> Json:
    """One asset in /api/assets. What isn't known is left out."""
    model = asset.root not in ("", *PLACES)
    told: Json = {
        "id": asset.id,
        "name": asset.name,
        "hash": asset.hash,
        "asset_hash": asset.hash,
        "loader_path": asset.file or None,
        "display_name": f"{asset.root}/{asset.file}" if model and asset.file else asset.file or None,
        "size": asset.size,
        "mime_type": asset.mime,
        "tags": list(asset.tags),
        "preview_url": None if model or not asset.file else _view(asset.root, asset.file),
        "preview_id": asset.preview,
        "user_metadata": dict(asset.metadata),
        "is_immutable": False,
        "created_at": _iso(asset.created),
        "updated_at": _iso(asset.updated),
        "last_access_time": None if asset.accessed is None else _iso(asset.accessed),
        **more,
    }
    return {name: value for name, value in told.items() if value is not None}


def _view(root: str, file: str) -> str:
    folder, _, name = file.rpartition("/")
    return f"api/view?{urlencode({'type': root, 'filename': name, 'subfolder': folder})}"


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat()


def asset_page(assets: Sequence[Json], total: int, offset: int) -> Json:
    return {"assets": assets, "total": total, "has_more": offset + len(assets) < total}


def tag_page(tags: Sequence[tuple[str, int]], total: int, offset: int) -> Json:
    shown = [{"name": name, "count": count} for name, count in tags]
    return {"tags": shown, "total": total, "has_more": offset + len(shown) < total}


def tag_histogram(tags: Iterable[tuple[str, int]]) -> Json:
    return {"tag_counts": dict(tags)}


def tags_added(named: Sequence[str], before: Sequence[str], total: Sequence[str]) -> Json:
    added, there = [t for t in named if t not in before], [t for t in named if t in before]
    return {"added": added, "already_present": there, "total_tags": list(total)}


def tags_removed(named: Sequence[str], before: Sequence[str], total: Sequence[str]) -> Json:
    removed, absent = [t for t in named if t in before], [t for t in named if t not in before]
    return {"removed": removed, "not_present": absent, "total_tags": list(total)}


def asset_error(code: str, message: str) -> Json:
    return {"error": {"code": code, "message": message, "details": {}}}


def error(text: str) -> Json:
    """The refusal of the newer routes."""
    return {"error": text}


def pack(loaded: Pack) -> Json:
    """One pack in GET /tessera/packs."""
    return {
        "name": loaded.name,
        "path": str(loaded.path),
        "nodes": list(loaded.nodes),
        "seconds": round(loaded.seconds, 3),
        "error": loaded.error,
        "traceback": loaded.traceback,
    }


def dumps(value: object) -> str:
    """Compact JSON."""
    return dump_text(value)
