"""Pool: the snapshot that `plan()` reads. Decisions: what it answers. Both are plain values."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from backend.types import ComponentId, DeviceId, OpKey, Seconds


@dataclass(frozen=True, slots=True)
class ReadyOp:
    """An op whose inputs exist.

    kind: "host" runs on the host device; "step" joins a device's step loop; "whole" runs there between steps.
    components: the weights it needs; batch: equal for step ops that may share a forward pass; rows: the rows
    it adds to that pass; order: the job's (number, sequence), smaller first; depth: ops between it and the
    end of its job, larger is more urgent.
    """

    key: OpKey
    kind: Literal["host", "step", "whole"]
    order: tuple[float, int]
    arrived: Seconds
    components: tuple[ComponentId, ...] = ()
    batch: str | None = None
    rows: int = 1
    depth: int = 0
    serial: bool = False  # at most one serial op runs at a time on the host
    excluded: frozenset[DeviceId] = frozenset()  # devices that died running it


@dataclass(frozen=True, slots=True)
class Device:
    """One device as it is now. slots: ops of kind host or whole that it takes at once; rows: of a step batch."""

    id: DeviceId
    kind: Literal["host", "worker"]
    slots: int
    max_rows: int = 0
    running: tuple[ReadyOp, ...] = ()
    resident: frozenset[ComponentId] = frozenset()


@dataclass(frozen=True, slots=True)
class Pool:
    devices: tuple[Device, ...]
    ready: tuple[ReadyOp, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Start an op on a device. reason: for the log and the pool view."""

    key: OpKey
    device: DeviceId
    reason: str


Decision: TypeAlias = Run
