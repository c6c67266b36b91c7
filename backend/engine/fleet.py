"""The devices, what runs on each, and their replacement when a process dies. Decides nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backend.components import Loadable
from backend.ops import Op
from backend.schedule.pool import ReadyOp
from backend.types import ComponentId, DeviceId, OpKey, Part
from backend.worker.messages import DeviceInfo, HostCall, Segment, Stored, Table

HOST = DeviceId("host")
STARTS = 5  # deaths in a row without a single finished op, after which a device is given up


class Runner(Protocol):
    """The server-side end of a device. It never blocks and reports from any thread."""

    def run(
        self,
        key: OpKey,
        op: Op[object],
        inputs: Mapping[OpKey, Stored],
        preview: str = ...,
        preview_size: int = ...,
    ) -> None: ...

    def cancel(self, key: OpKey) -> None: ...

    def abandon(self, key: OpKey) -> None:
        """End a running op by force, be it with the process or thread that runs it."""
        ...

    def unload(self) -> None:
        """Drop every resident component."""
        ...

    def stop(self) -> None:
        """End it and wait until it has ended."""
        ...


class Worker(Runner, Protocol):
    """A device that holds weights and runs steps."""

    def unload(self, components: Sequence[ComponentId] | None = None) -> None:
        """Drop the named resident components, or all."""
        ...

    def wake(self) -> None:
        """Make sure that its process is started: it will have work soon."""
        ...

    def load(self, what: Loadable) -> None:
        """Bring in a component before an op asks for it."""
        ...

    def pause(self, key: OpKey) -> None:
        """Stop a Denoise op after its current step and keep its state."""
        ...

    def resume(self, key: OpKey) -> None: ...

    def merge(self, key: OpKey) -> None:
        """Make a copy of the weights with the LoRAs of a Denoise op that was started in them."""
        ...

    def split(self, key: OpKey, helper: DeviceId, part: Part) -> None:
        """Let another device compute a share of a Denoise op's calls, or its ControlNets, from its next step
        on.
        """
        ...

    def unsplit(self, key: OpKey, helper: DeviceId) -> None:
        """Go on without that helper."""
        ...

    def evaluate(self, number: int, lead: DeviceId, loan: Segment) -> None:
        """Compute a call for the device `lead`."""
        ...

    def answer(self, number: int, output: Segment | None) -> None:
        """What came of a call that this device lent; None: its helper could not."""
        ...


class HostThreads(Runner, Protocol):
    """The host: it also takes calls that wait for nothing but each other, for one thread to run in a row."""

    def run_chain(self, calls: Sequence[HostCall]) -> None: ...

    def run_quick(self) -> None:
        """Run calls that will be over in a moment, and which `run_chain` put off; wait for 5 ms at most."""
        ...

    def forget(self) -> None:
        """Drop what third-party nodes keep between their calls."""
        ...


@dataclass(slots=True)
class Seat:
    """One device: its worker, what it last said of itself, and what it runs."""

    id: DeviceId
    worker: Runner
    slots: int
    max_rows: int
    info: DeviceInfo | None = None
    table: Table = field(default_factory=lambda: Table(()))
    running: dict[OpKey, ReadyOp] = field(default_factory=dict)
    cancelling: set[OpKey] = field(default_factory=set)
    deaths: int = 0
    lost: bool = False
    condemned: bool = False  # its process is being ended by us: nothing that ran there is to blame

    @property
    def is_worker(self) -> bool:
        return self.id != HOST

    @property
    def usable(self) -> bool:
        return not self.lost and (self.id == HOST or self.info is not None)


class Fleet:
    """All devices, the host among them."""

    def __init__(self, seats: list[Seat]) -> None:
        self._seats = {seat.id: seat for seat in seats}
        self._where: dict[OpKey, DeviceId] = {}

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats.values())

    def __getitem__(self, id: DeviceId) -> Seat:
        return self._seats[id]

    def add(self, seat: Seat) -> None:
        self._seats[seat.id] = seat

    def unload(self) -> None:
        """Let every worker drop its weights."""
        for seat in self:
            seat.worker.unload()

    def busy(self, key: OpKey) -> bool:
        """Whether a device still holds this op, if only to drop it."""
        return key in self._where

    def assign(self, device: DeviceId, op: ReadyOp) -> Seat:
        seat = self._seats[device]
        seat.running[op.key] = op
        self._where[op.key] = device
        return seat

    def follow(self, key: OpKey) -> None:
        """A call that the host runs behind another: it takes no thread of its own."""
        self._where[key] = HOST

    def release(self, key: OpKey) -> ReadyOp | None:
        """The op has left its device. Returns: what it was, None if no device had it."""
        device = self._where.pop(key, None)
        if device is None:
            return None
        seat = self._seats[device]
        seat.cancelling.discard(key)
        return seat.running.pop(key, None)

    def cancel(self, key: OpKey) -> None:
        """Ask the device to drop the op; it confirms by a report."""
        device = self._where.get(key)
        if device is not None and key not in self._seats[device].cancelling:
            self._seats[device].cancelling.add(key)
            self._seats[device].worker.cancel(key)
