"""What `plan()` reads and answers: ops that are ready, and decisions, as plain values."""

from typing import Literal, TypeAlias

from backend.types import ComponentId, DeviceId, OpKey, Part, Seconds
from backend.values import frozen

Order: TypeAlias = tuple[float, float]  # a job's number and its arrival: ComfyUI's order of the queue


@frozen
class ReadyOp:
    """An op whose inputs exist.

    kind: "host" runs on the host; "step" joins a device's step loop; "whole" runs on a device between steps.
    order: the job's place, smaller first. arrived: when it became ready. components: the weights it needs.
    batch: equal for step ops that may share a forward pass. rows: the rows it adds to that pass. serial: at
    most one such op runs at a time. alone: it was on a device that died; nothing else may run beside it, so
    that if it is the cause no other job suffers. user: whose share it is charged to. ahead: its job was put
    before others by hand, which goes before fairness. cost: seconds it is expected to take alone. path:
    seconds that are left of its job from here, at best. deadline: when its job must be over. home: the device
    that holds its unfinished run, for an op that was preempted. parts: into how many equal parts the rows of
    each of its passes may be dealt to several devices: the halves of guidance, the images of a batch.
    adapted: LoRAs change the weights that it runs with. controls: its ControlNets, of the
    components. deferred: it goes after all others that have a deadline, as the pool decides.
    """

    key: OpKey
    kind: Literal["host", "step", "whole"]
    order: Order
    arrived: Seconds = 0.0
    components: tuple[ComponentId, ...] = ()
    batch: str | None = None
    rows: int = 1
    serial: bool = False
    alone: bool = False
    user: str = ""
    ahead: bool = False
    cost: Seconds = 0.0
    path: Seconds = 0.0
    deadline: Seconds | None = None
    home: DeviceId | None = None
    parts: int = 1
    adapted: bool = False
    controls: tuple[ComponentId, ...] = ()
    deferred: bool = False


@frozen
class Run:
    """Start an op on a device. reason, here and below: for the log and the pool view. merge: its LoRAs are to
    be merged into a copy of the weights, for which there is room.
    """

    key: OpKey
    device: DeviceId
    reason: str
    merge: bool = False


@frozen
class Resume:
    """Let an op that was preempted go on where it stopped."""

    key: OpKey
    device: DeviceId
    reason: str


@frozen
class Preempt:
    """Stop an op after its current step; the device keeps its state until `Resume`."""

    key: OpKey
    device: DeviceId
    reason: str


@frozen
class Split:
    """From its next step on, `helper` computes a part of each pass of an op that runs on `device`: it holds
    what that needs and has nothing else to do. part: "calls": an op's rows are dealt out evenly to its device
    and such helpers; "controls": what its ControlNets add to the rows that its device computes.
    """

    key: OpKey
    device: DeviceId
    helper: DeviceId
    reason: str
    part: Part = "calls"


@frozen
class Unsplit:
    """After its current step, an op goes on without a helper, which is free for what it is told next."""

    key: OpKey
    device: DeviceId
    helper: DeviceId
    reason: str


@frozen
class Load:
    """Bring a component to a device. cause: no op runs there for it yet, or other devices hold it too."""

    component: ComponentId
    device: DeviceId
    reason: str
    cause: Literal["prefetch", "replicate"] = "prefetch"


@frozen
class Evict:
    """Drop a component from a device. cause: for room, or as a copy that others make needless."""

    component: ComponentId
    device: DeviceId
    reason: str
    cause: Literal["room", "retire"] = "room"


@frozen
class Reject:
    """An op that will not run. cause: its deadline can't be met, or no device could ever hold its weights."""

    key: OpKey
    reason: str
    cause: Literal["deadline", "size"]


Decision: TypeAlias = Run | Resume | Preempt | Split | Unsplit | Load | Evict | Reject
