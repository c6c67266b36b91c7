"""What the engine and its workers say to each other: small picklable values, no torch.

Tensors never travel in a message: a `Segment` names the shared memory that holds them.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import field
from typing import Literal, Protocol, TypeAlias

from backend.components import Loadable
from backend.ops import Call, Expanded, Needs, Op
from backend.settings import Settings
from backend.types import ClientId, ComponentId, DeviceId, NodeId, OpKey, Part, Seconds
from backend.values import frozen

PictureFormat = Literal["JPEG", "PNG"]


@frozen
class Segment:
    """A packed value: a file in shared memory that holds a pickle and, aligned behind it, its tensors."""

    path: str
    nbytes: int


# -- to a worker ---------------------------------------------------------------------------------


@frozen
class Setup:
    """The first message to a worker. index: which of `count` workers; owner: the server's pid."""

    settings: Settings
    index: int
    count: int
    owner: int


@frozen
class RunOp:
    """inputs: the result (a tuple of outputs) of every op that `op` refers to."""

    key: OpKey
    op: Op[object]
    inputs: Mapping[OpKey, Segment]
    preview: str = "none"  # none, latent2rgb
    preview_size: int = 512


@frozen
class HostCall:
    """A call for the host's threads. inputs: results that it reads, but for those of calls before it."""

    key: OpKey
    op: Call
    inputs: Mapping[OpKey, "Stored"]


@frozen
class CancelOp:
    key: OpKey


@frozen
class Pause:
    """Skip a Denoise op from its next step on; its state is kept."""

    key: OpKey


@frozen
class Resume:
    """Go on with an op that was paused."""

    key: OpKey


@frozen
class Merge:
    """Make a copy of the denoiser's weights with a Denoise op's LoRAs in them: it runs for long."""

    key: OpKey


@frozen
class Split:
    """Let another device compute a share of a Denoise op's model calls, or its ControlNets, from its next
    step on. It should hold the components: it loads them otherwise.
    """

    key: OpKey
    helper: DeviceId
    part: Part = "calls"


@frozen
class Unsplit:
    """Go on without a helper: it is needed elsewhere."""

    key: OpKey
    helper: DeviceId


@frozen
class Evaluate:
    """Compute a call (`lending.Loan` or `ControlLoan`, packed) for the device `lead`; `Evaluated` answers."""

    number: int
    lead: DeviceId
    loan: Segment


@frozen
class Answer:
    """A lent call's raw output, or what a ControlNet adds, packed; None where the helper could not."""

    number: int
    output: Segment | None


@frozen
class LoadComponent:
    """Bring a component, or a LoRA for one that is there, in before an op asks for it; between two steps.
    `Loaded` answers, or nothing where it is there already, can't be loaded, or has no room: nothing is
    dropped for it.
    """

    what: Loadable


@frozen
class Unload:
    """Drop resident components: the named ones, or all."""

    components: tuple[ComponentId, ...] | None = None


@frozen
class Stop:
    pass


ToWorker: TypeAlias = (
    RunOp
    | CancelOp
    | Pause
    | Resume
    | Merge
    | Split
    | Unsplit
    | Evaluate
    | Answer
    | LoadComponent
    | Unload
    | Stop
)


# -- from a worker -------------------------------------------------------------------------------


@frozen
class DeviceInfo:
    """Bytes; `name` as torch gives it; type: cpu, cuda, mps."""

    name: str
    type: str
    index: int | None
    total: int
    free: int
    torch_total: int = 0
    torch_free: int = 0


@frozen
class Resident:
    """A component that the worker holds. copies is 1 always: it is here to be looked at."""

    component: ComponentId
    label: str
    nbytes: int
    copies: int = 1


@frozen
class Ready:
    info: DeviceInfo
    pid: int


@frozen
class Started:
    key: OpKey


@frozen
class Progress:
    """node: a node of the job that is meant instead of those that the op works for."""

    key: OpKey
    value: float
    max: float
    node: NodeId | None = None


@frozen
class Preview:
    """An encoded image: of the current denoised estimate (JPEG), or one that a node sends.

    node: as in Progress.
    """

    key: OpKey
    image: bytes
    format: PictureFormat = "JPEG"
    node: NodeId | None = None


@frozen
class Ask:
    """A call that `helper` is to compute for this device (`lending.Loan` or `ControlLoan`, packed)."""

    number: int
    helper: DeviceId
    loan: Segment


@frozen
class Evaluated:
    """The raw output of a call computed for the device `lead`, packed; None: it could not be."""

    number: int
    lead: DeviceId
    output: Segment | None


@frozen
class Done:
    """lengths: items per output. ui: what output nodes show. seconds: time of its own compute.

    load: seconds it waited for weights to be loaded; transfer: seconds spent on unpacking its inputs and
    packing its result. Neither is part of `seconds`.
    """

    key: OpKey
    value: Segment
    lengths: tuple[int, ...]
    seconds: Seconds = 0.0
    ui: Mapping[str, object] | None = None
    load: Seconds = 0.0
    transfer: Seconds = 0.0


Shown: TypeAlias = str | int | float | None  # an input for a reader: plain values as they are, others as text


@frozen
class Failed:
    """What an op raised.

    type: bare name for builtins, `module.Name` otherwise; inputs: what the node was given, by name, None
    where nothing was called.
    """

    key: OpKey
    type: str
    message: str
    traceback: tuple[str, ...]
    inputs: Mapping[str, tuple[Shown, ...]] | None = field(default_factory=dict)


@frozen
class OpCancelled:
    key: OpKey


@frozen
class Loaded:
    """A component was brought in. seconds: what that took; late: a pass needs it in its middle only."""

    component: ComponentId
    label: str
    nbytes: int
    seconds: Seconds
    late: bool = False


@frozen
class Unloaded:
    """A component was dropped. reason: asked for by the server, or evicted to make room."""

    component: ComponentId
    label: str
    nbytes: int
    reason: Literal["asked", "evicted"]


@frozen
class Relief:
    """What was done so far where memory was short, by rung of the ladder (`worker/ladder.py`).

    evicted: components dropped to make room; offloaded: components whose weights stayed on the host; split:
    forward passes cut into smaller ones; tiled: VAE ops run in tiles that were meant to run whole; failed:
    ops that no rung helped.
    """

    evicted: int = 0
    offloaded: int = 0
    split: int = 0
    tiled: int = 0
    failed: int = 0


@frozen
class Table:
    """What the worker holds and has done, sent whenever it changes.

    forwards: denoiser forward passes; rows: rows in them in all; shared: forwards that served several ops;
    largest: rows of the largest forward; sizes: how many forwards had how many rows, as (rows, forwards);
    info: the device's memory as it is now; loads: components brought in so far; relief: what was done where
    memory was short; passes: the latest times of whole forward passes, as (denoiser, rows, seconds).
    """

    resident: tuple[Resident, ...]
    forwards: int = 0
    rows: int = 0
    shared: int = 0
    largest: int = 0
    info: DeviceInfo | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    loads: int = 0
    relief: Relief = field(default_factory=Relief)
    passes: tuple[tuple[ComponentId, int, Seconds], ...] = ()


class Stored(Protocol):
    """A result as the server holds it (`exchange.Value`): here, in shared memory, or both."""

    @property
    def nbytes(self) -> int: ...

    def get(self) -> tuple[tuple[object, ...], ...]:
        """The outputs, each a tuple of items."""
        ...

    def segment(self) -> Segment:
        """The result for another process, packed if need be."""
        ...

    def close(self) -> None:
        """Give the memory back. No one may read the result afterwards."""


@frozen
class Finished:
    """`Done` as the engine sees it: what the server-side end of a worker, or the host, reports.

    blocked: messages of blockers that the node met. effort: CPU seconds of the thread that ran it, which
    other work on the machine does not lengthen; None where several share the thread.
    """

    key: OpKey
    value: Stored
    lengths: tuple[int, ...]
    seconds: Seconds = 0.0
    ui: Mapping[str, object] | None = None
    load: Seconds = 0.0
    transfer: Seconds = 0.0
    blocked: tuple[str, ...] = ()
    effort: Seconds | None = None


# -- from the host alone -------------------------------------------------------------------------


@frozen
class Unfinished:
    """A call answered, but with no result yet: it needs lazy inputs, or other nodes run in its place.

    ui, blocked: as in `Finished`.
    """

    key: OpKey
    answer: Needs | Expanded
    seconds: Seconds = 0.0
    ui: Mapping[str, object] | None = None
    blocked: tuple[str, ...] = ()


@frozen
class Stopped:
    """A node's code raised the interrupt by itself."""

    key: OpKey


@frozen
class Said:
    """A node's code sends a message to a client, or to all. node: data is a text to show on it."""

    event: str
    data: object
    client: ClientId | None = None
    node: NodeId | None = None


@frozen
class Asked:
    """A running call wants an op's result; it waits for `reply`."""

    key: OpKey
    op: Op[object]
    reply: "Future[tuple[tuple[object, ...], ...]]"


@frozen
class Lost:
    """The worker's process is gone. Made by the pool, not by the worker."""

    reason: str


News: TypeAlias = Ready | Table | Loaded | Unloaded  # what a worker says of itself
FromWorker: TypeAlias = Started | Progress | Preview | Done | Failed | OpCancelled | Ask | Evaluated | News
HostOnly: TypeAlias = Unfinished | Stopped | Said | Asked
Report: TypeAlias = (
    Started | Progress | Preview | Finished | Failed | OpCancelled | Ask | Evaluated | News | Lost | HostOnly
)
