"""What plan() decides in situations that fit on a screen."""

import copy

import pytest

from backend.schedule.policy import MOST, plan
from backend.schedule.pool import Evict, Load, Preempt, Reject, Resume, Run
from backend.types import ComponentId, DeviceId, OpKey
from tests.backend.schedule.build import (
    GIB,
    a_call,
    a_pool,
    a_profile,
    a_step,
    a_whole,
    holds,
    of,
    starts,
    wait,
)


def test_calls_run_on_as_many_threads_as_there_are():
    pool = a_pool(0, threads=2)
    assert starts(wait(pool, a_call("a"), a_call("b", 1), a_call("c", 2))) == {"a": "host", "b": "host"}
    pool.done(OpKey("a"), 0.0)
    assert starts(plan(pool, 0.0)) == {"c": "host"}


def test_third_party_calls_run_one_at_a_time_beside_our_own():
    calls = [a_call("x", serial=True), a_call("y", 1, serial=True), a_call("ours", 2)]
    assert starts(wait(a_pool(0, threads=4), *calls)) == {"x": "host", "ours": "host"}


def test_steps_of_one_denoiser_share_a_device_up_to_its_rows():
    ready = [a_step(str(i), order=i) for i in range(6)]
    assert list(starts(wait(a_pool(), *ready))) == ["0", "1", "2", "3"]


def test_a_batch_grows_only_while_sharing_a_pass_is_faster_than_two_passes():
    decisions = wait(a_pool(profile=a_profile(pays=False)), a_step("a"), a_step("b", order=1))
    assert list(starts(decisions)) == ["a"]


def test_an_op_goes_where_its_weights_are():
    pool = a_pool(2)
    holds(pool, "gpu1", "sd15")
    (run,) = wait(pool, a_step("a"))
    assert (run.device, run.reason) == ("gpu1", "its weights are resident on an idle device")


def test_two_denoisers_spread_over_two_devices():
    decisions = wait(a_pool(2), a_step("a", "sd15"), a_step("b", "flux", order=1))
    assert sorted(starts(decisions).values()) == ["gpu0", "gpu1"]


def test_two_ops_of_one_denoiser_spread_over_devices_that_both_hold_it():
    pool = a_pool(2)
    holds(pool, "gpu0", "sd15")
    holds(pool, "gpu1", "sd15")
    wait(pool, a_step("a"))
    assert starts(wait(pool, a_step("b", order=1))) == {"b": "gpu1"}


def test_a_waiting_denoiser_stops_others_from_joining_before_it():
    pool = a_pool()
    holds(pool, "gpu0", "sd15", "flux")
    assert list(starts(wait(pool, a_step("runs", user="a")))) == ["runs"]
    older, younger = a_step("older", "flux", order=1, user="b"), a_step("younger", order=2, user="c")
    assert wait(pool, older, younger) == []
    pool.done(OpKey("runs"), 0.75)
    assert list(starts(plan(pool, 1.0))) == ["older"]


def test_a_whole_op_runs_beside_steps():
    pool = a_pool()
    holds(pool, "gpu0", "sd15", "vae")
    wait(pool, a_step("runs"))
    assert starts(wait(pool, a_whole("decode"))) == {"decode": "gpu0"}


def test_a_suspect_runs_alone():
    suspect = a_step("suspect", alone=True)
    pool = a_pool()
    wait(pool, a_step("runs"))
    assert wait(pool, suspect) == []
    assert starts(wait(a_pool(), suspect, a_step("other", order=1))) == {"suspect": "gpu0"}


def test_a_user_who_alone_uses_the_pool_sees_plain_order():
    pool = a_pool(rows=2, profile=a_profile())
    jobs = [a_step(name, order=n) for name, n in (("third", 7), ("first", -2), ("second", 5.5))]
    order = list(starts(wait(pool, *jobs)))
    for _ in range(2):
        pool.done(order[-1], 0.75)
        order += list(starts(plan(pool, 0.0)))
    assert order == ["first", "second", "third"]


def test_within_a_job_the_longest_path_goes_first():
    pool = a_pool()
    holds(pool, "gpu0", "clip")
    short, long = a_whole("short", "clip", path=1.0), a_whole("long", "clip", path=9.0)
    assert list(starts(wait(pool, short, long))) == ["long"]


def test_a_job_that_was_put_ahead_goes_before_users_who_received_less():
    pool = a_pool(rows=2)
    holds(pool, "gpu0", "sd15")
    wait(pool, a_step("runs", user="a"))
    wait(pool, a_step("fair", order=1, user="b"), a_step("front", order=-3, user="a", ahead=True))
    pool.done(OpKey("runs"), 0.75)
    assert list(starts(plan(pool, 1.0))) == ["front"]


def test_a_user_who_waited_long_goes_before_jobs_that_were_put_ahead():
    pool = a_pool(rows=2)
    holds(pool, "gpu0", "sd15")
    wait(pool, a_step("runs", user="a"))
    wait(pool, a_step("patient", order=1, user="b"))
    wait(pool, a_step("front", order=-3, user="a", ahead=True), now=200.0)
    pool.done(OpKey("runs"), 0.75)
    assert list(starts(plan(pool, 201.0))) == ["patient"]


def test_a_long_run_is_stopped_after_its_step_for_a_user_who_received_less_and_goes_on_later():
    pool = a_pool(rows=2)
    holds(pool, "gpu0", "sd15")
    wait(pool, a_step("long", user="a", cost=60.0))
    pool.progress(OpKey("long"), 0.1)
    preempt, run = wait(pool, a_step("short", order=1, user="b"), now=6.0)
    assert isinstance(preempt, Preempt)
    assert isinstance(run, Run)
    assert (preempt.key, run.key) == ("long", "short")
    assert "received less" in preempt.reason
    pool.done(OpKey("short"), 0.75)
    (resume,) = plan(pool, 7.0)
    assert isinstance(resume, Resume)
    assert (resume.key, resume.device) == ("long", "gpu0")
    assert pool.done(OpKey("long"), 60.0).key == "long"
    assert plan(pool, 70.0) == []


@pytest.mark.parametrize(
    "waiting",
    [
        a_step("no shorter", order=1, user="b", cost=60.0),
        a_step("own", order=1, user="a"),
    ],
)
def test_no_run_is_stopped_for_one_that_is_no_shorter_or_of_the_same_user(waiting):
    pool = a_pool(rows=2)
    wait(pool, a_step("long", user="a", cost=60.0))
    pool.progress(OpKey("long"), 0.1)
    assert wait(pool, waiting, now=6.0) == []


def test_what_is_worth_least_makes_room_and_what_is_in_use_stays():
    pool = a_pool(gib=3)
    holds(pool, "gpu0", "sd15", "vae", "clip")
    pool.want((ComponentId("vae"),), 1)
    wait(pool, a_step("runs"))
    evict, run = wait(pool, a_whole("decode", "flux", order=1))
    assert isinstance(evict, Evict)
    assert (evict.component, run.key) == ("clip", "decode")
    assert set(pool.devices[DeviceId("gpu0")].held) == {"sd15", "vae", "flux"}


def test_a_copy_that_another_device_holds_too_is_retired_first():
    pool = a_pool(2, gib=2)
    holds(pool, "gpu0", "sd15", "vae")
    holds(pool, "gpu1", "vae")
    wait(pool, a_step("runs", "sd15", order=-1), a_step("too", "clip", order=0))
    pool.done(OpKey("runs"), 1.0)
    (evict,) = of(Evict, wait(pool, a_step("new", "flux", order=1)))
    assert (evict.component, evict.device, evict.cause) == ("vae", "gpu0", "retire")


def test_an_op_whose_weights_fit_no_device_is_refused_with_the_sizes():
    pool = a_pool(gib=8, profile=a_profile(flux=22.0))
    (reject,) = wait(pool, a_step("a", "flux"))
    assert isinstance(reject, Reject)
    assert (reject.cause, reject.key) == ("size", "a")
    assert "22 GiB" in reject.reason
    assert "8 GiB" in reject.reason
    assert len(pool.queue) == 0


def test_a_component_that_is_only_guessed_to_be_too_large_is_tried():
    pool = a_pool(gib=8)
    pool.profile.guess_size(ComponentId("container"), 22 * GIB)
    assert starts(wait(pool, a_step("a", "container"))) == {"a": "gpu0"}
    assert pool.devices[DeviceId("gpu0")].nbytes <= 8 * GIB


def test_an_op_too_late_for_its_deadline_is_refused_the_others_run():
    pool = a_pool()
    late, fine = a_step("late", path=5.0, deadline=4.0), a_step("fine", order=1, path=5.0, deadline=6.0)
    reject, run = wait(pool, late, fine)
    assert isinstance(reject, Reject)
    assert (reject.key, reject.cause, run.key) == ("late", "deadline", "fine")


def test_what_jobs_will_need_is_loaded_by_a_device_with_nothing_to_do():
    pool = a_pool(2)
    for component in ("sd15", "clip"):
        pool.want((ComponentId(component),), 1)
    run, load = wait(pool, a_whole("encode", "clip"))
    assert isinstance(load, Load)
    assert (run.device, load.device, load.component, load.cause) == ("gpu0", "gpu1", "sd15", "prefetch")
    assert plan(pool, 1.0) == []
    pool.done(OpKey("encode"), 0.2)
    assert starts(wait(pool, a_step("a"), now=1.0)) == {"a": "gpu1"}


@pytest.mark.parametrize(("load", "copies"), [(0.1, 1), (60.0, 0)])
def test_a_component_is_copied_once_its_queue_is_longer_than_its_load(load, copies):
    pool = a_pool(2, rows=2, profile=a_profile(load=load))
    holds(pool, "gpu0", "sd15")
    ready = [a_step(str(i), order=i) for i in range(9)]
    decisions = wait(pool, *ready)
    assert len(of(Load, decisions)) == copies
    assert len(starts(decisions)) == 1 + copies
    assert all(load.cause == "replicate" and "another copy" in load.reason for load in of(Load, decisions))


def test_a_component_that_never_came_is_sent_for_again():
    pool = a_pool()
    pool.want((ComponentId("sd15"),), 1)
    assert len(of(Load, plan(pool, 0.0))) == 1
    pool.table(DeviceId("gpu0"), {}, 1.0)
    assert plan(pool, 1.0) == []
    pool.table(DeviceId("gpu0"), {}, 100.0)
    assert len(of(Load, plan(pool, 100.0))) == 1


def test_a_device_that_holds_more_than_it_should_drops_what_it_can():
    pool = a_pool(gib=2)
    holds(pool, "gpu0", "sd15", "vae", "clip")
    (evict,) = plan(pool, 0.0)
    assert isinstance(evict, Evict)
    assert pool.devices[DeviceId("gpu0")].free >= 0


def test_one_call_makes_a_bounded_number_of_decisions_and_the_next_goes_on():
    pool = a_pool(0, threads=2 * MOST)
    assert len(wait(pool, *(a_call(str(i), i) for i in range(MOST + 9)))) == MOST
    assert len(plan(pool, 0.0)) == 9


def test_equal_pools_get_equal_decisions():
    pool = a_pool(3, gib=2)
    for i, model in enumerate(["sd15", "flux", "sdxl", "vae"] * 8):
        pool.add(a_step(f"{i}", model, order=i, user=f"u{i % 3}"), 0.0)
    twin = copy.deepcopy(pool)
    assert plan(pool, 0.0) == plan(twin, 0.0)


def test_a_cancelled_op_leaves_no_trace_in_the_queue_even_if_it_was_preempted():
    pool = a_pool(rows=2)
    wait(pool, a_step("long", user="a", cost=60.0))
    pool.progress(OpKey("long"), 0.1)
    wait(pool, a_step("short", order=1, user="b"), now=6.0)
    pool.remove(OpKey("long"))
    pool.done(OpKey("long"))
    assert len(pool.queue) == 0
    device = pool.devices[DeviceId("gpu0")]
    assert not device.paused
    assert set(device.running) == {"short"}


@pytest.mark.parametrize("kind", [a_step, a_whole])
def test_a_lora_comes_to_a_device_that_holds_its_network_and_not_the_network_to_another(kind):
    pool = a_pool(3, profile=a_profile(style=0.1))
    holds(pool, "gpu1", "sd15")
    op = kind("a", "sd15", components=(ComponentId("sd15"), ComponentId("style")))
    (run,) = wait(pool, op)
    assert isinstance(run, Run)
    assert run.device == "gpu1"
    assert "holds the network" in run.reason
    assert "style" in pool.devices[DeviceId("gpu1")].held


def test_a_lora_comes_to_its_network_even_where_something_must_go_for_it():
    pool = a_pool(2, gib=3, profile=a_profile(style=1.0))
    pool.profile.observe_load(ComponentId("sd15"), 20.0)  # worth more than what must go
    holds(pool, "gpu1", "sd15", "sdxl", "vae")
    op = a_step("a", "sd15", components=(ComponentId("sd15"), ComponentId("style")))
    evict, run = wait(pool, op)
    assert (evict.device, run.device) == ("gpu1", "gpu1")
