"""What devices say: to the board, to the jobs that wait for it, and so to their clients."""

from collections.abc import Collection, Sequence
from functools import partial

from backend.engine.board import Board
from backend.engine.clock import Clock
from backend.engine.events import ClientMessage, NodeText
from backend.engine.growth import Growth
from backend.engine.jobs import Job
from backend.engine.roster import Roster
from backend.errors import TesseraError
from backend.graph.frontier import LiveOp
from backend.ops import Call
from backend.types import DeviceId, JobKey, NodeId, OpKey
from backend.worker.failure import OUT_OF_MEMORY
from backend.worker.messages import (
    Ask,
    Asked,
    Evaluated,
    Failed,
    Finished,
    HostOnly,
    Loaded,
    Lost,
    News,
    OpCancelled,
    Preview,
    Progress,
    Ready,
    Report,
    Said,
    Started,
    Stopped,
    Table,
    Unfinished,
    Unloaded,
)


class Reports:
    def __init__(self, board: Board, roster: Roster, growth: Growth, clock: Clock) -> None:
        self._board, self._roster, self._growth, self._clock = board, roster, growth, clock

    def take(self, device: DeviceId, report: Report) -> None:
        """Do what a report asks for. What raises ends the jobs that the report is about."""
        key, jobs = self._concerned(device, report)
        self._roster.guarded(partial(self._take, device, report), key, jobs)

    def _concerned(self, device: DeviceId, report: Report) -> tuple[OpKey | None, Collection[JobKey]]:
        """The op that a report is about, and the jobs that could not go on without what it says."""
        match report:
            case Ask() | Evaluated() | Ready() | Table() | Loaded() | Unloaded() | Said():
                return None, ()
            case Lost():
                return None, self._board.jobs_on(device)
            case _:
                live = self._board.graph.get(report.key)
                return report.key, () if live is None else tuple(live.jobs)

    def _take(self, device: DeviceId, report: Report) -> None:
        match report:
            case Finished():
                self._board.fleet[device].deaths = 0
                self._finished(report)
            case Failed(key):
                if report.type in OUT_OF_MEMORY:
                    self._board.fleet.unload()
                if (live := self._board.failed(key)) is not None:
                    self._roster.fail_all(live, report)
            case OpCancelled(key):
                self._board.released(key)
            case Progress() | Preview() | Started():
                self._trace(report)
                self._tell(report)
            case Ask():
                self._board.loans.asked(device, report)
            case Evaluated():
                self._board.loans.evaluated(report)
            case Unfinished() | Stopped() | Said() | Asked():
                self._take_answer(report)
            case _:
                self._take_news(device, report)

    def _finished(self, done: Finished) -> None:
        live = self._board.finished(done)
        self._roster.asks.finished(done.key)
        if live is None:
            return
        own = self._growth.own_result(live)
        for job in self._roster.among(live.jobs):
            self._roster.guarded(partial(self._growth.finished, job, done, own), done.key, (job.key,))

    def _unfinished(self, report: Unfinished) -> None:
        """A call needs more of its inputs, or other nodes run in its place."""
        live = self._board.unfinished(report.key, report.seconds)
        for job in self._roster.among(live.jobs) if live is not None else ():
            self._roster.guarded(partial(self._growth.unfinished, job, report), report.key, (job.key,))

    def _trace(self, report: Progress | Preview | Started) -> None:
        match report:
            case Started(key):
                self._board.trace.began(key)
            case Progress(key, value, maximum):
                self._board.trace.progress(key, value, maximum)
                self._board.pool.progress(key, value / max(1, maximum), self._clock.now())

    def _tell(self, report: Progress | Preview | Started) -> None:
        """Tell every job that waits for an op how far it is."""
        live = self._board.graph.get(report.key)
        if live is None:
            return
        for job in self._roster.among(live.jobs):
            for id in self._meant(job, live, report):
                match report:
                    case Progress(value=value, max=maximum):
                        job.narrator.node_progress(id, value, maximum)
                    case Preview():
                        job.narrator.node_preview(id, report)
                    case Started():  # most were told when the op was sent; a call behind another begins now
                        job.narrator.node_running(id)

    def _meant(self, job: Job, live: LiveOp, report: Progress | Preview | Started) -> Sequence[NodeId]:
        """The nodes of a job that a report is about: those the op works for, or one that it names."""
        named = None if isinstance(report, Started) else report.node
        other = named is not None and isinstance(live.op, Call) and named != live.op.node_id
        if other and named is not None and named in job.lowering.dynamic.nodes:
            return (named,)
        return job.waiting_for(report.key)

    def _take_answer(self, report: HostOnly) -> None:
        """What a third-party node's call says beside its result."""
        match report:
            case Unfinished():
                self._unfinished(report)
            case Stopped(key):
                if (live := self._board.failed(key)) is not None:
                    for job in self._roster.among(live.jobs):
                        self._roster.interrupt(job, job.node_of(key))
            case Said(data=data, client=client, node=None):
                self._roster.emit(ClientMessage(client, report.event, data))
            case Said(data=data, client=client, node=str() as node):
                self._roster.emit(NodeText(client, NodeId(node), str(data)))
            case Asked():
                self._roster.asks.take(report, self._roster.claim_of)

    def _take_news(self, device: DeviceId, report: News | Lost) -> None:
        """What a worker says of itself."""
        seat = self._board.fleet[device]
        match report:
            case Ready(info):
                self._board.up(seat, info)
            case Table():
                self._board.told(seat, report)
            case Loaded():
                self._board.loaded(report)
            case Lost(reason):
                for live, error in self._board.lost(seat, reason):
                    self._roster.fail_all(live, given_up(live, error))


def given_up(live: LiveOp, error: TesseraError) -> Failed:
    """The failure of an op that will not run any more."""
    return Failed(live.key, type(error).__name__, f"{error}\n", (f"{error}\n",))
