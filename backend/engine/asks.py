"""Ops that running calls ask for: third-party nodes use the shared engine's models by them."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from backend.engine.board import Board
from backend.engine.jobs import Job
from backend.engine.ready import Claim
from backend.errors import OpFailed
from backend.graph.flatten import flatten
from backend.graph.frontier import wanted
from backend.graph.keys import Unkeyable
from backend.ops import Op
from backend.references import Ref
from backend.types import JobKey, OpKey
from backend.values import frozen
from backend.worker.messages import Asked, Failed

Reply = Future[tuple[tuple[object, ...], ...]]
Claims = Callable[[JobKey], Claim]


@frozen
class _Ask:
    """call: the op that asked; target: what it wants; ops: that, and what it is made of, inputs first."""

    call: OpKey
    target: OpKey
    ops: dict[OpKey, Op[object]]
    reply: Reply


class Asks:
    """What calls wait for. All on the engine's thread."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._open: list[_Ask] = []

    def take(self, asked: Asked, claim: Claims) -> None:
        """A call wants an op's result: every job that waits for the call wants the op too."""
        ops: dict[OpKey, Op[object]] = {}
        try:
            ref = flatten(asked.op, ops)
        except Unkeyable as error:
            asked.reply.set_exception(OpFailed("Unkeyable", str(error)))
            return
        assert isinstance(ref, Ref)
        ask = _Ask(asked.key, ref.key, ops, asked.reply)
        if not self._answer(ask):
            self._open.append(ask)
            self._want(ask, claim)

    def finished(self, key: OpKey) -> None:
        """A result is there."""
        if self._open:
            self._open = [ask for ask in self._open if ask.target != key or not self._answer(ask)]

    def failed(self, job: Job, key: OpKey, error: Failed) -> bool:
        """An op failed. Returns: whether calls had asked for it, or for what needs it; they are told."""
        hit = [ask for ask in self._open if key in ask.ops]
        for ask in hit:
            self._open.remove(ask)
            with suppress(InvalidStateError):  # its call gave up meanwhile
                ask.reply.set_exception(OpFailed(error.type, error.message.rstrip("\n")))
        kept = {op for ask in self._open for op in ask.ops}
        for ask in hit:
            for op in reversed(ask.ops):
                if op not in kept and not job.waiting_for(op):
                    self._board.let_go(job.key, op)
        return bool(hit)

    def job_left(self, claim: Claims) -> None:
        """A job is gone, and with it ops that calls may wait for which other jobs share."""
        graph = self._board.graph
        self._open = [ask for ask in self._open if ask.call in graph]
        for ask in self._open:
            if ask.target not in graph:
                self._want(ask, claim)

    def _want(self, ask: _Ask, claim: Claims) -> None:
        want = wanted([ask.target], ask.ops, self._board.results.__contains__)
        call = self._board.graph.get(ask.call)
        for job in sorted(call.jobs) if call is not None else ():
            self._board.want(job, claim(job), want)

    def _answer(self, ask: _Ask) -> bool:
        result = self._board.results.get(ask.target)
        if result is None:
            return False
        with suppress(InvalidStateError):
            ask.reply.set_result(result.value.get())
        return True


def settle(work: Awaitable[object]) -> object:
    """Run a coroutine to its end, in a thread that has no event loop."""

    async def wait() -> object:
        return await work

    return asyncio.run(wait())
