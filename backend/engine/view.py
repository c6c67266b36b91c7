"""The pool as it is now, for people: GET /tessera/pool and the front end's pool tab.

Times are seconds before or after the moment of the view ("ago", "for"), so that readers need no common clock.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from backend.engine.board import Board
from backend.engine.fleet import Seat
from backend.engine.jobs import Job
from backend.engine.record import JobRecord
from backend.engine.trace import Decided, JobTrace, OpenOp, Span, Trace, UserTrace
from backend.ops import Denoise
from backend.patches import apart
from backend.schedule.forecast import Forecast
from backend.types import ClientId, ComponentId, DeviceId, JobId, JobKey, OpKey, Seconds
from backend.values import frozen
from backend.worker.messages import DeviceInfo, Resident, Table

TIMELINE = 60.0  # seconds that the timeline covers
MOST_SPANS = 400  # of the timeline, the latest
MOST_PENDING = 100  # job ids
RECENT = 16  # ended jobs shown
RECENTLY = 600.0  # seconds for which a user of a component counts as one


@frozen
class OpView:
    """An op on a device. began: seconds since the device took it up, None while it waits there. value of max:
    its steps. rows: of the batch, 0 for an op without steps. users: whose jobs wait for it. hung: the
    watchdog has seen no progress for too long. apart: why it shares passes only with its like, "": it shares
    them with any.
    """

    name: str
    kind: str
    component: str
    sent: Seconds
    began: Seconds | None
    value: float
    max: float
    rows: int
    jobs: tuple[JobId, ...]
    users: tuple[ClientId | None, ...]
    hung: bool
    apart: str = ""


@frozen
class DeviceView:
    """info is None until the device's process has come up. restarts: deaths since it last finished an op.
    batch_rows: rows of its step batch now; max_rows: the most that it takes.
    """

    id: DeviceId
    info: DeviceInfo | None
    table: Table
    running: tuple[OpView, ...]
    usable: bool
    restarts: int
    slots: int
    batch_rows: int
    max_rows: int


@frozen
class ComponentView:
    """A resident component. files: names it was asked for by, the latest last; devices: where; users:
    who used it in the last ten minutes, latest first; running: ops that use it now, on all devices.
    """

    component: ComponentId
    label: str
    nbytes: int
    files: tuple[str, ...]
    devices: tuple[DeviceId, ...]
    users: tuple[ClientId | None, ...]
    running: int


@frozen
class UserView:
    """oldest: seconds since the arrival of the oldest unfinished job. compute: seconds of the ops that this
    user's jobs had a part in, shared ones in full.
    """

    client: ClientId | None
    running: int
    pending: int
    done: int
    oldest: Seconds
    compute: Seconds


@frozen
class SpanView:
    """A part of the timeline. began, ended: seconds ago."""

    device: DeviceId
    name: str
    kind: str
    component: str
    began: Seconds
    ended: Seconds
    outcome: str
    rows: int
    jobs: int
    users: tuple[ClientId | None, ...]


@frozen
class DecisionView:
    ago: Seconds
    kind: str
    device: DeviceId | None
    subject: str
    reason: str


@frozen
class JobView:
    """An ended job, and where its time went (`trace.JobTrace`)."""

    id: JobId
    client: ClientId | None
    status: str
    queue: Seconds
    load: Seconds
    compute: Seconds
    transfer: Seconds
    total: Seconds
    cached: int
    merged: int
    ran: int


@frozen
class ForecastView:
    """An unfinished job: seconds until it is over, likely and at least and most (four of five end within)."""

    id: JobId
    client: ClientId | None
    seconds: Seconds
    low: Seconds
    high: Seconds
    known: bool


@frozen
class PoolView:
    """running: jobs; pending: the first of those that are not, pending_count: how many they are.

    live_ops, ready_ops: unfinished ops over all jobs, and those that could run. results, result_bytes: the
    cache; hits, merged, misses, evicted: as `metrics.CacheCounts`.
    """

    devices: tuple[DeviceView, ...]
    components: tuple[ComponentView, ...]
    users: tuple[UserView, ...]
    running: tuple[JobId, ...]
    pending: tuple[JobId, ...]
    pending_count: int
    live_ops: int
    ready_ops: int
    results: int
    result_bytes: int
    hits: int
    merged: int
    misses: int
    evicted: int
    decisions: tuple[DecisionView, ...]
    jobs: tuple[JobView, ...]
    forecasts: tuple[ForecastView, ...]
    timeline: tuple[SpanView, ...]
    timeline_seconds: Seconds


def pool_view(
    board: Board, jobs: Mapping[JobKey, Job], forecasts: Mapping[JobId, Forecast], now: Seconds
) -> PoolView:
    """jobs: the unfinished ones; now: on the engine's clock."""
    ordered = sorted(jobs.values(), key=lambda job: job.order)
    pending = [job.record.id for job in ordered if not job.started]
    trace, cache = board.trace, board.trace.metrics.cache
    return PoolView(
        devices=tuple(_device(seat, board, jobs, now) for seat in board.fleet),
        components=_components(board, now),
        users=_users(ordered, trace, now),
        running=tuple(job.record.id for job in ordered if job.started),
        pending=tuple(pending[:MOST_PENDING]),
        pending_count=len(pending),
        live_ops=len(board.graph),
        ready_ops=board.ready_count,
        results=len(board.results),
        result_bytes=board.results.nbytes,
        hits=cache.hits,
        merged=cache.merged,
        misses=cache.misses,
        evicted=cache.evicted,
        decisions=tuple(_decision(made, now) for made in trace.decisions),
        jobs=tuple(_job(job) for job in list(trace.ended)[-RECENT:]),
        forecasts=tuple(_forecasts(ordered, forecasts))[:MOST_PENDING],
        timeline=_timeline(trace.spans, now),
        timeline_seconds=TIMELINE,
    )


def _forecasts(jobs: Iterable[Job], forecasts: Mapping[JobId, Forecast]) -> Iterator[ForecastView]:
    for job in jobs:
        found = forecasts.get(job.record.id)
        if found is not None:
            yield ForecastView(
                job.record.id, job.record.client, found.seconds, found.low, found.high, found.known
            )


def _device(seat: Seat, board: Board, jobs: Mapping[JobKey, Job], now: Seconds) -> DeviceView:
    ops = [(key, op) for key, op in board.trace.open.items() if op.device == seat.id]
    running = tuple(_op(op, _records(board, key, jobs), _apart(board, key), now) for key, op in ops)
    rows = sum(op.rows for _, op in ops)
    return DeviceView(
        seat.id, seat.info, seat.table, running, seat.usable, seat.deaths, seat.slots, rows, seat.max_rows
    )


def _records(board: Board, key: OpKey, jobs: Mapping[JobKey, Job]) -> list[JobRecord]:
    """The jobs that wait for an op, oldest first."""
    live = board.graph.get(key)
    return [jobs[job].record for job in sorted(live.jobs) if job in jobs] if live is not None else []


def _apart(board: Board, key: OpKey) -> str:
    live = board.graph.get(key)
    return apart(live.op.guider.model.patches) if live is not None and isinstance(live.op, Denoise) else ""


def _op(op: OpenOp, jobs: list[JobRecord], alone: str, now: Seconds) -> OpView:
    return OpView(
        op.label.name,
        op.label.kind,
        op.label.component,
        _ago(op.sent, now),
        None if op.began is None else _ago(op.began, now),
        op.value,
        op.max,
        op.rows,
        tuple(job.id for job in jobs),
        tuple(dict.fromkeys(job.client for job in jobs)),
        op.hung,
        alone,
    )


def _components(board: Board, now: Seconds) -> tuple[ComponentView, ...]:
    """Every component that is resident somewhere, the largest first."""
    held: dict[ComponentId, tuple[Resident, list[DeviceId]]] = {}
    for seat in board.fleet:
        for resident in seat.table.resident:
            held.setdefault(resident.component, (resident, []))[1].append(seat.id)
    running = Counter(component for op in board.trace.open.values() for component in op.components)
    shown = (
        ComponentView(
            id,
            resident.label,
            resident.nbytes,
            tuple(board.trace.files_of.get(id, ())),
            tuple(devices),
            _recent_users(board.trace, id, now),
            running[id],
        )
        for id, (resident, devices) in held.items()
    )
    return tuple(sorted(shown, key=lambda component: -component.nbytes))


def _recent_users(trace: Trace, component: ComponentId, now: Seconds) -> tuple[ClientId | None, ...]:
    used = trace.used_by.get(component)
    latest = reversed(used.items()) if used is not None else ()
    return tuple(client for client, at in latest if now - at <= RECENTLY)


def _users(jobs: Iterable[Job], trace: Trace, now: Seconds) -> tuple[UserView, ...]:
    """Users with unfinished jobs, in the order of their first one; then the last ones who had any."""
    unfinished: dict[ClientId | None, list[Job]] = {}
    for job in jobs:
        unfinished.setdefault(job.record.client, []).append(job)
    latest = [client for client in reversed(trace.users) if client not in unfinished][:RECENT]
    return tuple(_user(client, unfinished.get(client, []), trace, now) for client in (*unfinished, *latest))


def _user(client: ClientId | None, jobs: list[Job], trace: Trace, now: Seconds) -> UserView:
    received = trace.users.get(client, UserTrace())
    running = sum(job.started for job in jobs)
    arrived = [trace.jobs[job.key].arrived for job in jobs if job.key in trace.jobs]
    oldest = _ago(min(arrived), now) if arrived else 0.0
    return UserView(client, running, len(jobs) - running, received.jobs, oldest, round(received.compute, 3))


def _timeline(spans: Iterable[Span], now: Seconds) -> tuple[SpanView, ...]:
    shown = [span for span in spans if now - span.ended <= TIMELINE][-MOST_SPANS:]
    return tuple(
        SpanView(
            span.device,
            span.label.name,
            span.label.kind,
            span.label.component,
            _ago(span.began, now),
            _ago(span.ended, now),
            span.outcome,
            span.rows,
            span.jobs,
            span.users,
        )
        for span in shown
    )


def _decision(made: Decided, now: Seconds) -> DecisionView:
    return DecisionView(_ago(made.at, now), made.kind, made.device, made.subject, made.reason)


def _job(job: JobTrace) -> JobView:
    parts = (job.queue, job.load, job.compute, job.transfer, job.total)
    queue, load, compute, transfer, total = (round(seconds, 4) for seconds in parts)
    return JobView(
        job.id,
        job.client,
        job.status,
        queue,
        load,
        compute,
        transfer,
        total,
        job.cached,
        job.merged,
        job.ran,
    )


def _ago(at: Seconds, now: Seconds) -> Seconds:
    """Seconds between then and now, to the millisecond."""
    return round(now - at, 3)
