"""Admission by predicted finish: where not all deadlines can be met, the fewest jobs are refused, and early.

After Moore (1968): by deadline, jobs are taken in; where the work so far no longer fits before a deadline, the longest
of them is given up. Many devices count as one that is as many times as fast: runs can be stopped, moved in between and
dealt out, so that this is nearly so.
"""

import heapq
from collections.abc import Iterator
from itertools import islice

from backend.schedule.pool import ReadyOp
from backend.schedule.state import Pool
from backend.types import Seconds

_MOST = 1_000  # jobs that are looked at, the most urgent
_EVERY = 0.1  # seconds between two looks


def overload(pool: Pool, now: Seconds) -> Iterator[ReadyOp]:
    """Waiting ops whose jobs are to be given up. Each must be removed before the next."""
    if not pool.queue.timed or now - pool.admitted < _EVERY:
        return
    pool.admitted = now
    speed = pool.rules.speed * max(1, len(pool.devices.workers))
    jobs = _jobs(pool)
    done, taken = 0.0, list[tuple[Seconds, int]]()
    victims: list[int] = []
    for index, (due, work, ops) in enumerate(jobs):
        done += work
        if ops:
            heapq.heappush(taken, (-work, index))
        while taken and done > speed * (due - now):
            less, victim = heapq.heappop(taken)
            done += less
            victims.append(victim)
    for victim in victims:
        yield from jobs[victim][2]


def _jobs(pool: Pool) -> list[tuple[Seconds, Seconds, list[ReadyOp]]]:
    """Deadline, work left and waiting ops of each job, by deadline. Jobs that run have none to give up."""
    found: dict[object, tuple[Seconds, Seconds, list[ReadyOp]]] = {}
    for op in islice(pool.queue.by_slack(), _MOST):
        assert op.deadline is not None
        _, work, ops = found.get((op.user, op.order), (0.0, 0.0, []))
        found[op.user, op.order] = (op.deadline, max(work, op.path), [*ops, op])
    for device in pool.devices.workers.values():
        for running in device.running.values():
            op = running.op
            if op.deadline is not None:
                found[op.user, op.order] = (op.deadline, op.path - op.cost + running.left, [])
    return sorted(found.values(), key=lambda job: job[0])
