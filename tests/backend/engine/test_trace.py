from dataclasses import dataclass

import pytest

from backend.components import File, Weights
from backend.engine.clock import ManualClock
from backend.engine.fleet import HOST
from backend.engine.trace import QUICK, USERS, Trace
from backend.graph.frontier import LiveOp
from backend.ops import Call, DecodeLatent
from backend.references import Ref, Vae
from backend.schedule.pool import ReadyOp
from backend.types import ClientId, DeviceId, JobId, JobKey, NodeId, OpKey
from backend.worker.messages import Finished

GPU, ANN, BOB = DeviceId("gpu0"), JobKey(1), JobKey(2)


@dataclass
class NoValue:
    nbytes: int = 0


def a_live_op(*jobs: JobKey, key: str = "op") -> LiveOp:
    """Any op will do where its components are given: a call is the shortest."""
    return LiveOp(OpKey(key), Call("Resize", {}, NodeId("1")), (), set(jobs))


def a_done(key: str = "op", **more: float) -> Finished:
    return Finished(OpKey(key), NoValue(), (1,), **more)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def trace(clock: ManualClock) -> Trace:
    trace = Trace(clock)
    trace.job_arrived(ANN, JobId("a"), ClientId("ann"))
    trace.job_arrived(BOB, JobId("b"), ClientId("bob"))
    return trace


def run(trace: Trace, clock: ManualClock, *jobs: JobKey, kind: str = "step", device: DeviceId = GPU) -> None:
    """An op that waits 1 s to be sent and 2 s to begin, and then runs 4 s."""
    live, ready = a_live_op(*jobs), ReadyOp(OpKey("op"), kind, (0, 1), clock.now(), rows=2)
    clock.advance(1)
    trace.sent(live, device, ready)
    clock.advance(2)
    trace.began(live.key)
    clock.advance(4)
    trace.finished(a_done(seconds=2.5, load=1.0, transfer=0.25), live.jobs)


def test_a_job_knows_where_its_time_went(trace: Trace, clock: ManualClock):
    run(trace, clock, ANN)
    clock.advance(1)
    trace.job_ended(ANN, "completed")
    (job,) = trace.ended
    assert (job.queue, job.load, job.compute, job.transfer, job.total) == (3, 1, 2.5, 0.25, 8)
    assert trace.metrics.job_parts["compute"].total == 2.5
    assert trace.metrics.jobs == {"completed": 1}


def test_an_op_that_two_users_share_is_drawn_once_and_counts_for_both(trace: Trace, clock: ManualClock):
    run(trace, clock, ANN, BOB)
    (span,) = trace.spans
    assert (span.began, span.ended, span.rows, span.jobs) == (103, 107, 2, 2)
    assert set(span.users) == {"ann", "bob"}
    assert {user: got.compute for user, got in trace.users.items()} == {"ann": 2.5, "bob": 2.5}
    (counts,) = trace.metrics.ops.values()
    assert (counts.runs.count, counts.runs.total) == (1, 4)
    assert trace.metrics.waits["step"].total == 3


def test_only_the_jobs_that_completed_count_in_the_split(trace: Trace):
    trace.job_ended(ANN, "failed")
    assert trace.metrics.job_parts["total"].count == 0
    assert trace.metrics.jobs == {"failed": 1}


def test_the_end_of_a_job_is_counted_once(trace: Trace):
    trace.job_ended(ANN, "failed")
    trace.job_ended(ANN, "cancelled")
    assert trace.metrics.jobs == {"failed": 1}


def test_a_quick_call_is_counted_but_not_drawn(trace: Trace, clock: ManualClock):
    for seconds in (QUICK / 2, QUICK * 2):
        trace.sent(a_live_op(ANN), HOST, None)
        clock.advance(seconds)
        trace.finished(a_done(seconds=seconds), {ANN})
    assert len(trace.spans) == 1
    assert trace.metrics.op("host", "Resize").outcomes == {"finished": 2}


def test_a_call_is_timed_by_its_own_seconds_for_it_is_told_late(trace: Trace, clock: ManualClock):
    trace.sent(a_live_op(ANN), HOST, None)
    clock.advance(3)
    trace.began(OpKey("op"))
    trace.finished(a_done(seconds=1.0), {ANN})
    assert trace.metrics.waits["host"].total == 2
    (span,) = trace.spans
    assert (span.began, span.ended) == (102, 103)


def test_an_op_that_was_lost_runs_anew(trace: Trace, clock: ManualClock):
    live, ready = a_live_op(ANN), ReadyOp(OpKey("op"), "whole", (0, 1), clock.now())
    trace.sent(live, GPU, ready)
    trace.gone(live.key, "lost", live.jobs)
    run(trace, clock, ANN)
    assert [span.outcome for span in trace.spans] == ["lost", "finished"]
    assert trace.open == {}


def a_decode(file: str, *jobs: JobKey) -> tuple[LiveOp, ReadyOp]:
    """An op on one and the same VAE, found in a file of that name."""
    weights = Weights("vae", "d1", (File(f"/models/{file}", 1, 1, 1),))
    live = LiveOp(OpKey("op"), DecodeLatent(Vae(weights), Ref(OpKey("latent"))), (), set(jobs))
    return live, ReadyOp(live.key, "whole", (0, 1), components=(weights.id,))


def test_components_know_their_latest_users_and_forget_the_oldest(trace: Trace):
    live, ready = a_decode("a.safetensors", ANN)
    for n in range(USERS + 1):
        trace.job_arrived(ANN, JobId(str(n)), ClientId(f"user {n}"))
        trace.sent(live, GPU, ready)
    assert len(trace.used_by[ready.components[0]]) == USERS
    assert next(iter(trace.used_by[ready.components[0]])) == "user 1"


def test_a_component_knows_the_files_that_it_was_asked_for_by(trace: Trace):
    for file in ("a.safetensors", "b.safetensors", "a.safetensors"):
        live, ready = a_decode(file, ANN)
        trace.sent(live, GPU, ready)
    assert trace.files_of == {ready.components[0]: {"b.safetensors": None, "a.safetensors": None}}
    assert list(trace.files_of[ready.components[0]])[-1] == "a.safetensors"
    assert trace.open[live.key].label.component == "vae of a.safetensors"


def test_decisions_about_devices_are_kept_and_those_about_the_host_are_none(trace: Trace):
    trace.decided("run", HOST, "SaveImage", "a host thread is free")
    trace.decided("load", GPU, "vae of x", "a job will need it")
    assert [(made.kind, made.device, made.subject) for made in trace.decisions] == [("load", GPU, "vae of x")]
    assert trace.metrics.decisions == {"load": 1}
