"""Pool: the snapshot that `plan()` reads. Decisions: what it answers. Both are plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from backend.types import ComponentId, DeviceId, OpKey, Seconds


@dataclass(frozen=True, slots=True)
class ReadyOp:
    """An op whose inputs exist.

    kind: "host" runs on the host; "step" joins a device's step loop; "whole" runs on a device between steps.
    order: the job's (number, sequence), smaller first. arrived: when it became ready. components: the weights
    it needs. batch: equal for step ops that may share a forward pass. rows: the rows it adds to that pass.
    serial: at most one such op runs at a time. alone: it was on a device that died; nothing else may run
    beside it, so that if it is the cause no other job suffers.
    """

    key: OpKey
    kind: Literal["host", "step", "whole"]
    order: tuple[float, int]
    arrived: Seconds = 0.0
    components: tuple[ComponentId, ...] = ()
    batch: str | None = None
    rows: int = 1
    serial: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """One device as it is now. slots: host or whole ops that it takes at once; max_rows: of a step batch."""

    id: DeviceId
    kind: Literal["host", "worker"]
    slots: int
    max_rows: int = 0
    running: tuple[ReadyOp, ...] = ()
    resident: frozenset[ComponentId] = frozenset()


@dataclass(frozen=True, slots=True)
class Pool:
    """calls: ready host ops; ready: ready model ops. Both are sorted by `order`."""

    devices: tuple[Device, ...]
    calls: Sequence[ReadyOp]
    ready: Sequence[ReadyOp]


@dataclass(frozen=True, slots=True)
class Run:
    """Start an op on a device. reason: for the log and the pool view."""

    key: OpKey
    device: DeviceId
    reason: str


Decision: TypeAlias = Run
