"""Follows ops and jobs through the engine: what `/metrics` counts and the pool view shows.

The engine calls a method at each turn of an op's or job's life. Nothing here decides anything, and what is
kept is bounded. Times are seconds on the engine's clock.
"""

from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from backend.components import Weights
from backend.engine.clock import Clock
from backend.engine.fleet import HOST
from backend.engine.metrics import Metrics, OpCounts, OpLabel, Outcome
from backend.engine.ready import weights_of
from backend.graph.frontier import LiveOp
from backend.ops import Call, Op
from backend.schedule.pool import ReadyOp
from backend.types import ClientId, ComponentId, DeviceId, JobId, JobKey, OpKey, Seconds
from backend.values import frozen
from backend.worker.messages import Finished, Table

SPANS = 1024  # ops of the timeline
ENDED = 64  # jobs whose split is kept
DECIDED = 64  # decisions kept
USERS = 256  # users remembered, in all and by component
FILES = 16  # names of files remembered by component
COMPONENTS = 512  # components whose users are remembered
QUICK = 0.01  # seconds; the timeline leaves out calls of the host that are quicker


@dataclass(slots=True)
class OpenOp:
    """An op on a device. arrived: when it was ready; sent: when it was given to the device; began: when the
    device took it up. value, max: its progress. rows: of a forward pass, 0 for an op without steps. hung: it
    has made no progress for longer than the watchdog allows.
    """

    device: DeviceId
    counts: OpCounts
    arrived: Seconds
    sent: Seconds
    components: tuple[ComponentId, ...] = ()
    rows: int = 0
    began: Seconds | None = None
    value: float = 0
    max: float = 0
    hung: bool = False

    @property
    def label(self) -> OpLabel:
        return self.counts.label


@frozen
class Span:
    """An op that left its device. jobs: how many it served, users: whose they were."""

    device: DeviceId
    label: OpLabel
    began: Seconds
    ended: Seconds
    outcome: Outcome
    rows: int
    jobs: int
    users: tuple[ClientId | None, ...]


@frozen
class Decided:
    """A decision that was carried out. subject: the op or component it is about."""

    at: Seconds
    kind: str
    device: DeviceId | None
    subject: str
    reason: str


@dataclass(slots=True)
class JobTrace:
    """Where a job's time went: sums over its ops, shared ones in full, so parallel ops add up.

    queue: ready but not begun; load, compute, transfer: as workers report them; total: from its submission
    (or the server's start) to its end. cached, merged, ran: its ops by what became of them.
    """

    id: JobId
    client: ClientId | None
    arrived: Seconds
    queue: Seconds = 0.0
    load: Seconds = 0.0
    compute: Seconds = 0.0
    transfer: Seconds = 0.0
    total: Seconds = 0.0
    cached: int = 0
    merged: int = 0
    ran: int = 0
    status: str = ""


@dataclass(slots=True)
class UserTrace:
    """What a user has received: ended jobs, and the compute of the ops that they had a part in."""

    jobs: int = 0
    compute: Seconds = 0.0


class Trace:
    def __init__(self, clock: Clock) -> None:
        self.metrics = Metrics()
        self.open: dict[OpKey, OpenOp] = {}
        self.jobs: dict[JobKey, JobTrace] = {}
        self.spans: deque[Span] = deque(maxlen=SPANS)
        self.ended: deque[JobTrace] = deque(maxlen=ENDED)
        self.decisions: deque[Decided] = deque(maxlen=DECIDED)
        self.users: OrderedDict[ClientId | None, UserTrace] = OrderedDict()
        self.used_by: OrderedDict[ComponentId, OrderedDict[ClientId | None, Seconds]] = OrderedDict()
        self.files_of: dict[ComponentId, dict[str, None]] = {}
        self._labels: dict[ComponentId, str] = {}
        self._clock = clock

    # -- jobs ------------------------------------------------------------------------------------

    def job_arrived(self, key: JobKey, id: JobId, client: ClientId | None) -> None:
        self.jobs[key] = JobTrace(id, client, self._clock.now())

    def job_cached(self, key: JobKey, ops: int) -> None:
        """That many of its ops need no run."""
        if ops and key in self.jobs:
            self.jobs[key].cached += ops
            self.metrics.cache.hits += ops

    def job_merged(self, key: JobKey, ops: int) -> None:
        """That many of its ops were in the live graph already, for another job."""
        if ops and key in self.jobs:
            self.jobs[key].merged += ops
            self.metrics.cache.merged += ops

    def job_ended(self, key: JobKey, status: str) -> None:
        job = self.jobs.pop(key, None)
        if job is None:
            return
        job.status, job.total = status, self._clock.now() - job.arrived
        self.ended.append(job)
        self.metrics.jobs[status] += 1
        self._user(job.client).jobs += 1
        if status == "completed":
            parts = self.metrics.job_parts
            parts["queue"].add(job.queue)
            parts["load"].add(job.load)
            parts["compute"].add(job.compute)
            parts["transfer"].add(job.transfer)
            parts["total"].add(job.total)

    # -- ops -------------------------------------------------------------------------------------

    def decided(self, kind: str, device: DeviceId | None, subject: str, reason: str) -> None:
        """The host's are left out: there is one host, which takes what comes."""
        if device == HOST:
            return
        self.decisions.append(Decided(self._clock.now(), kind, device, subject, reason))
        self.metrics.decisions[kind] += 1

    def sent(self, live: LiveOp, device: DeviceId, ready: ReadyOp | None) -> None:
        """A device is given an op. ready None: a call that follows another in the same thread."""
        now = self._clock.now()
        if ready is None:
            self.open[live.key] = OpenOp(device, self.metrics.op("host", name_of(live.op)), now, now)
            return
        counts = self.metrics.op(ready.kind, name_of(live.op), self._component(live, ready))
        rows = ready.rows if ready.kind == "step" else 0
        self.open[live.key] = OpenOp(device, counts, ready.arrived, now, ready.components, rows)
        for weights in weights_of(live.op):
            if weights.id in ready.components:
                _note_files(self.files_of.setdefault(weights.id, {}), weights)
        for component in ready.components:
            users = self._users_of(component)
            for job in live.jobs:
                _renew(users, self.jobs[job].client if job in self.jobs else None, now)

    def began(self, key: OpKey) -> None:
        """The device took the op up. Calls of the host are timed by their own seconds instead."""
        op = self.open.get(key)
        if op is not None and op.label.kind != "host":
            op.began = self._clock.now()

    def progress(self, key: OpKey, value: float, maximum: float) -> None:
        op = self.open.get(key)
        if op is not None:
            op.value, op.max = value, maximum

    def finished(self, done: Finished, jobs: Collection[JobKey]) -> None:
        """jobs: those that wait for the op now."""
        op = self.open.pop(done.key, None)
        if op is None:
            return
        now = self._clock.now()
        if op.label.kind == "host":
            op.began = max(op.sent, now - done.seconds)
        elif op.began is None:
            op.began = op.sent
        assert op.began is not None
        wait = op.began - op.arrived
        self.metrics.waited(op.label.kind, wait)
        op.counts.finished(now - op.began, done.seconds)
        for key in jobs:
            job = self.jobs.get(key)
            if job is not None:
                job.ran += 1
                job.queue += wait
                job.load += done.load
                job.compute += done.seconds
                job.transfer += done.transfer
                self._user(job.client).compute += done.seconds
        self._draw(op, "finished", now, jobs)

    def gone(self, key: OpKey, outcome: Outcome, jobs: Collection[JobKey]) -> None:
        """The op left its device without a result."""
        op = self.open.pop(key, None)
        if op is None:
            return
        now = self._clock.now()
        op.counts.ended(outcome)
        if op.began is not None or outcome != "cancelled":
            self._draw(op, outcome, now, jobs)

    def told(self, device: DeviceId, old: Table, new: Table) -> None:
        """A device sent a new table of what it holds and has done."""
        self.metrics.device(device).take(old, new)

    def died(self, device: DeviceId) -> None:
        self.metrics.device(device).deaths += 1

    # -- small things ----------------------------------------------------------------------------

    def _draw(self, op: OpenOp, outcome: Outcome, now: Seconds, jobs: Collection[JobKey]) -> None:
        began = op.sent if op.began is None else op.began
        if op.label.kind == "host" and now - began < QUICK:
            return
        users = tuple(dict.fromkeys(self.jobs[key].client for key in jobs if key in self.jobs))
        self.spans.append(Span(op.device, op.label, began, now, outcome, op.rows, len(jobs), users))

    def _users_of(self, component: ComponentId) -> OrderedDict[ClientId | None, Seconds]:
        users = self.used_by.get(component)
        if users is None:
            users = self.used_by[component] = OrderedDict()
        self.used_by.move_to_end(component)
        while len(self.used_by) > COMPONENTS:
            forgotten, _ = self.used_by.popitem(last=False)
            self._labels.pop(forgotten, None)
            self.files_of.pop(forgotten, None)
        return users

    def _component(self, live: LiveOp, ready: ReadyOp) -> str:
        if not ready.components:
            return ""
        id = ready.components[0]
        label = self._labels.get(id)
        if label is None:
            label = self._labels[id] = component_label(weights_of(live.op)[0])
        return label

    def _user(self, client: ClientId | None) -> UserTrace:
        user = self.users.get(client)
        if user is None:
            user = self.users[client] = UserTrace()
        self.users.move_to_end(client)
        while len(self.users) > USERS:
            self.users.popitem(last=False)
        return user


def _renew(users: OrderedDict[ClientId | None, Seconds], client: ClientId | None, now: Seconds) -> None:
    users[client] = now
    users.move_to_end(client)
    while len(users) > USERS:
        users.popitem(last=False)


def _note_files(files: dict[str, None], weights: Weights) -> None:
    """Remember under which file names a component was asked for."""
    for file in weights.files:
        name = Path(file.path).name
        files.pop(name, None)
        files[name] = None
    while len(files) > FILES:
        del files[next(iter(files))]


def name_of(op: Op[object]) -> str:
    """The node of a call, the class of any other op."""
    return op.node if isinstance(op, Call) else type(op).__name__


def component_label(weights: Weights) -> str:
    """The role and the files, as workers name components too."""
    name = f"{weights.kind} {weights.part}" if weights.part else weights.kind
    return f"{name} of {', '.join(Path(file.path).name for file in weights.files)}"
