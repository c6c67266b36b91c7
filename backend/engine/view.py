"""The pool as it is now, for people: GET /tessera/pool."""

from dataclasses import dataclass

from backend.schedule.pool import Run
from backend.types import DeviceId, JobId, OpKey
from backend.worker.messages import DeviceInfo, Table


@dataclass(frozen=True, slots=True)
class DeviceView:
    """info is None until the device's process has come up. restarts: deaths since it last finished an op."""

    id: DeviceId
    info: DeviceInfo | None
    table: Table
    running: tuple[OpKey, ...]
    usable: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class PoolView:
    """live_ops: unfinished ops over all jobs. results, result_bytes: the cache. decisions: the latest."""

    devices: tuple[DeviceView, ...]
    running: tuple[JobId, ...]
    pending: tuple[JobId, ...]
    live_ops: int
    results: int
    result_bytes: int
    decisions: tuple[Run, ...]
