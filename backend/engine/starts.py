"""Does what `plan()` says: starts ops on devices, and passes on all else that it decides."""

from collections.abc import Callable, Collection
from functools import partial

from backend.engine.board import Board
from backend.engine.clock import Clock
from backend.engine.fleet import HOST
from backend.engine.trace import name_of
from backend.errors import DeadlineMissed, TesseraError, TooLarge
from backend.graph.frontier import LiveOp, State
from backend.ops import Call
from backend.schedule.policy import MOST, plan
from backend.schedule.pool import Decision, Evict, Load, Preempt, Reject, Resume, Run, Split, Unsplit
from backend.types import JobKey, OpKey
from backend.values import frozen
from backend.worker.messages import HostCall, Stored

AT_ONCE = 128  # ops started, about, before others have their turn
CHAIN = 16  # most calls that one thread runs in a row

Preview = Callable[[LiveOp], str]
# Takes a step that is about an op of these jobs; an exception in it ends them.
Guarded = Callable[[Callable[[], None], OpKey | None, Collection[JobKey]], None]


@frozen
class Rejected:
    """An op that `plan()` refused, and the jobs that end because of it."""

    live: LiveOp
    jobs: tuple[JobKey, ...]
    error: TesseraError


class Starts:
    """more: whether there is more to do, after others had their turn."""

    def __init__(self, board: Board, clock: Clock) -> None:
        self._board, self._clock = board, clock
        self.more = False
        self._rejected: list[Rejected] = []

    def dispatch(self, preview: Preview, preview_size: int, guarded: Guarded) -> list[LiveOp]:
        """Ask `plan()` what is to be done now, and do it. preview: the method an op's client wants; guarded:
        takes each step.

        Returns: the ops that were started. What was refused waits for `rejected`; `more` says whether there
        is more to do, after others had their turn: a start of thousands must not keep the server from
        answering.
        """
        started: list[LiveOp] = []
        pool = self._board.pool
        while self._board.at_once and self._board.host is not None:
            call = self._board.at_once.pop(0)
            started.append(call)
            guarded(partial(self._start_coroutine, call), call.key, tuple(call.jobs))
        self.more = False
        while self._asked_for:
            if len(started) >= AT_ONCE:
                self.more = True
                break
            decisions = plan(pool, self._clock.now())
            for decision in decisions:
                live = None if isinstance(decision, (Load, Evict)) else self._board.graph.get(decision.key)
                if live is not None and isinstance(decision, Run):
                    started.append(live)
                    guarded(partial(self._start, decision, preview, preview_size), live.key, tuple(live.jobs))
                else:
                    jobs = () if live is None else tuple(live.jobs)
                    guarded(partial(self._carry_out, decision), None, jobs)
            if len(decisions) < MOST:
                break
        return started

    @property
    def due(self) -> bool:
        """Whether `dispatch` might find something to do."""
        return bool(self._board.at_once) or self._asked_for

    @property
    def _asked_for(self) -> bool:
        pool = self._board.pool
        return bool(pool.queue.ops or pool.cold or pool.over or pool.may_split)

    def _start(self, run: Run, preview: Preview, preview_size: int) -> None:
        live = self._board.graph[run.key]
        ready = self._board.pool.devices[run.device].running[run.key].op
        seat = self._board.fleet.assign(run.device, ready)
        try:
            self._board.trace.decided("run", seat.id, name_of(live.op), run.reason)
            self._board.trace.sent(live, seat.id, ready)
            if seat.id == HOST and isinstance(live.op, Call):
                self._run_chain(live)
            else:
                seat.worker.run(live.key, live.op, self._inputs(live), preview(live), preview_size)
                if run.merge:
                    self._board.workers[seat.id].merge(live.key)
            live.state = State.RUNNING
        finally:
            if live.state is not State.RUNNING:
                self._board.off(live.key)  # the device never had it

    def _start_coroutine(self, live: LiveOp) -> None:
        """A coroutine mostly waits: it takes no thread, and no turn from others."""
        self._board.fleet.follow(live.key)
        self._board.trace.sent(live, HOST, None)
        live.state = State.RUNNING
        assert isinstance(live.op, Call)
        assert self._board.host is not None
        self._board.host.run_chain([HostCall(live.key, live.op, self._inputs(live))])

    def _run_chain(self, head: LiveOp) -> None:
        """Start a call, and behind it in the same thread the calls that wait for nothing else: each hand-over
        between threads costs more than a small call takes.
        """
        chain = [head]
        while len(chain) < CHAIN and (follower := self._follower(chain[-1])) is not None:
            chain.append(follower)
        calls = [
            HostCall(live.key, live.op, self._inputs(live)) for live in chain if isinstance(live.op, Call)
        ]
        for follower in chain[1:]:
            follower.state = State.RUNNING
            self._board.fleet.follow(follower.key)
            self._board.trace.sent(follower, HOST, None)
        assert self._board.host is not None  # it has started something
        self._board.host.run_chain(calls)

    def _follower(self, live: LiveOp) -> LiveOp | None:
        if self._board.outlook.is_serial(live.op):
            return None
        for key in self._board.graph.graph.successors(live.key):
            user = self._board.graph[key]
            fits = user.state is State.WAITING and user.missing == 1 and isinstance(user.op, Call)
            if fits and not self._board.outlook.is_serial(user.op):
                return user
        return None

    def _inputs(self, live: LiveOp) -> dict[OpKey, Stored]:
        found = {}
        for key in live.inputs:
            if (result := self._board.results.get(key)) is not None:
                found[key] = result.value
        return found

    def _carry_out(self, decision: Decision) -> None:
        """Send a decision to the worker that it concerns, or keep it for the jobs that it ends."""
        match decision:
            case Resume(key, device):
                self._board.workers[device].resume(key)
            case Preempt(key, device):
                self._board.workers[device].pause(key)
            case Split(key, device, helper, _, part):
                self._board.workers[device].split(key, helper, part)
            case Unsplit(key, device, helper):
                self._board.workers[device].unsplit(key, helper)
            case Load(component, device):
                self._board.workers[device].load(self._board.outlook.loadable[component])
            case Evict(component, device):
                self._board.workers[device].unload((component,))
            case Reject():
                self._reject(decision)
            case Run(key):
                self._board.off(key)  # it went while the decisions before this one were carried out
        self._note(decision)

    def _note(self, decision: Decision) -> None:
        device = None if isinstance(decision, Reject) else decision.device
        if isinstance(decision, (Load, Evict)):
            subject = str(decision.component)
        else:
            live = self._board.graph.get(decision.key)
            subject = decision.key if live is None else name_of(live.op)
        self._board.trace.decided(type(decision).__name__.lower(), device, subject, decision.reason)

    def _reject(self, decision: Reject) -> None:
        """Find the jobs that end by it: all, or those whose deadline it is."""
        live = self._board.graph[decision.key]
        if live.state is State.RUNNING:  # it was preempted: its device still holds it
            self._board.fleet.cancel(live.key)
        jobs = tuple(sorted(live.jobs))
        if decision.cause == "size":
            error: TesseraError = TooLarge(name_of(live.op), decision.reason)
        else:
            ends = self._clock.now() + self._board.outlook.paths.get(live.key, 0.0)
            late = ((job, self._board.claims[job].deadline) for job in jobs)
            jobs = tuple(job for job, deadline in late if deadline is not None and deadline < ends)
            error = DeadlineMissed(name_of(live.op), decision.reason)
        self._rejected.append(Rejected(live, jobs, error))

    def rejected(self) -> list[Rejected]:
        """What `plan()` refused since the last call. Drop the jobs, then `readmit` each."""
        taken, self._rejected = self._rejected, []
        return taken
