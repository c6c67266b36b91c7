"""Idle devices are lent to what runs, and taken back by what needs them."""

from dataclasses import replace

import pytest

from backend.schedule.policy import plan
from backend.schedule.pool import Load, Preempt, Run, Split, Unsplit
from backend.schedule.rules import Rules
from backend.types import ComponentId, OpKey
from tests.backend.schedule.build import a_pool, a_profile, a_step, a_whole, holds, of, took, wait


def a_splitting_pool(workers: int = 2, *held: str, rows: int = 8, split: bool = True, pays: bool = False):
    pool = a_pool(workers, rows=rows, profile=a_profile(pays=pays), rules=Rules(split=split))
    for index in range(workers):
        holds(pool, f"gpu{index}", *(held or ("sd15",)))
    return pool


def test_the_halves_of_guidance_are_dealt_to_a_device_with_nothing_to_do():
    run, split = wait(a_splitting_pool(), a_step("a", parts=2))
    assert isinstance(run, Run)
    assert isinstance(split, Split)
    assert (split.key, split.device, split.helper) == ("a", "gpu0", "gpu1")
    assert "dealt to 2 devices" in split.reason


def test_without_the_rule_nothing_is_split():
    assert len(wait(a_splitting_pool(split=False), a_step("a", parts=2))) == 1


def test_what_has_one_part_is_not_split():
    assert of(Split, wait(a_splitting_pool(), a_step("a", rows=1))) == []


def test_a_device_without_the_weights_does_not_help():
    pool = a_splitting_pool(1)
    pool.add_device("gpu9", "worker", 1, 8)
    assert of(Split, wait(pool, a_step("a", parts=2))) == []


def a_half_equipped_pool(load: float, **sizes: float):
    pool = a_pool(2, profile=a_profile(pays=False, load=load, **sizes), rules=Rules(split=True))
    holds(pool, "gpu0", "sd15")
    return pool


def a_long_step(key: str, **more: object):
    return a_step(key, **{"parts": 2, "cost": 20.0, "path": 20.0, **more})


def test_an_idle_device_gets_the_weights_where_the_split_pays_for_the_loading():
    pool = a_half_equipped_pool(load=5.0)
    run, load = wait(pool, a_long_step("a"))
    assert (run.device, load.device, load.component, load.cause) == ("gpu0", "gpu1", "sd15", "replicate")
    assert "loading takes 5 s" in load.reason
    assert plan(pool, 4.0) == []  # it is on its way: neither loaded twice nor split with
    pool.progress(OpKey("a"), 0.25, 5.0)
    (split,) = plan(pool, 5.0)
    assert (split.key, split.helper) == ("a", "gpu1")


@pytest.mark.parametrize(("load", "cost"), [(7.0, 20.0), (5.0, 10.0), (30.0, 20.0)])
def test_a_run_that_is_over_before_the_loading_has_paid_stays_where_it_is(load, cost):
    """Half a pass is saved, 2 ms less: of 13 s that are left after 7 of loading that is less than 7."""
    assert of(Load, wait(a_half_equipped_pool(load), a_long_step("a", cost=cost))) == []


def test_nothing_is_loaded_for_a_split_while_others_want_a_device():
    pool = a_half_equipped_pool(load=5.0)
    pool.want((ComponentId("flux"),), 1)  # another job will need it, and nobody has it
    loads = of(Load, wait(pool, a_long_step("a")))
    assert [load.component for load in loads] == ["flux"]


def test_nothing_is_dropped_for_a_split():
    pool = a_half_equipped_pool(load=5.0, sd15=40.0, sdxl=30.0)
    holds(pool, "gpu1", "sdxl")
    assert of(Load, wait(pool, a_long_step("a"))) == []


def test_a_small_pass_that_batching_makes_cheap_is_not_split():
    assert of(Split, wait(a_splitting_pool(pays=True), a_step("a", rows=2, parts=2, cost=0.75))) != []
    flat = a_profile()
    took(flat, "sd15", dict.fromkeys(range(1, 9), 0.05))
    pool = a_pool(2, profile=flat, rules=Rules(split=True))
    holds(pool, "gpu0", "sd15")
    holds(pool, "gpu1", "sd15")
    assert of(Split, wait(pool, a_step("a", parts=2))) == []


def test_the_images_of_a_batch_are_dealt_to_as_many_devices_as_gain():
    splits = of(Split, wait(a_splitting_pool(6), a_step("a", rows=4, parts=4)))
    assert [s.helper for s in splits] == ["gpu1", "gpu2", "gpu3"]  # two parts to three devices gain nothing


def test_a_helper_is_taken_back_for_an_op_of_its_own():
    pool = a_splitting_pool(2, "sd15", "vae")
    wait(pool, a_step("a", parts=2))
    unsplit, run = wait(pool, a_step("b", order=1))
    assert isinstance(unsplit, Unsplit)
    assert (unsplit.key, unsplit.device, unsplit.helper) == ("a", "gpu0", "gpu1")
    assert (run.key, run.device) == ("b", "gpu1")


def test_a_helper_is_free_when_what_it_helped_with_ends_and_may_help_another():
    pool = a_splitting_pool()
    wait(pool, a_step("a", parts=2))
    pool.done(OpKey("a"), 0.5)
    assert plan(pool, 1.0) == []
    run, split = wait(pool, a_step("b", parts=2), now=1.0)
    assert (run.device, split.helper) == ("gpu0", "gpu1")


def test_a_run_that_is_stopped_or_joined_gives_its_helpers_back_first():
    pool = a_splitting_pool(2, rows=2)
    wait(pool, a_step("long", user="a", cost=60.0, parts=2))
    pool.progress(OpKey("long"), 0.1)
    wait(pool, a_step("other", order=1, user="b", rows=2, cost=50.0), now=6.0)
    plan(pool, 6.0)
    pool.done(OpKey("other"), 1.0)
    assert len(of(Split, plan(pool, 7.0))) == 1
    pool.devices["gpu1"].alone = 1  # something that keeps the device busy
    pool.devices._sort(pool.devices["gpu1"])
    decisions = wait(pool, a_step("short", order=2, user="c"), now=8.0)
    kinds = [type(d) for d in decisions if not isinstance(d, Split)]
    assert kinds == [Unsplit, Preempt, Run]


def test_a_lost_helper_leaves_its_run_alone():
    pool = a_splitting_pool()
    wait(pool, a_step("a", parts=2))
    pool.remove_device("gpu1")
    assert pool.devices["gpu0"].running["a"].helpers == []


def test_a_whole_op_needs_its_device_alone():
    pool = a_splitting_pool(2, "sd15", "vae")
    wait(pool, a_step("a", parts=2))
    decisions = wait(pool, a_whole("decode"))
    assert any(isinstance(d, Unsplit) for d in decisions) == (decisions[-1].device == "gpu1")


def a_controlled(key="a", **more):
    """A run of one row with a ControlNet that costs half of it."""
    controls = (ComponentId("control"),)
    return a_step(key, rows=1, components=(ComponentId("sd15"), *controls), controls=controls, **more)


def a_pool_with_controls(*held, late=True):
    profile = a_profile(pays=False, control=1.0)
    took(profile, "control", {rows: 0.025 * rows for rows in range(1, 9)})
    pool = a_pool(2, profile=profile, rules=Rules(split=True))
    holds(pool, "gpu0", "sd15", "control")
    holds(pool, "gpu1", *held)
    if late:
        pool.late.add(ComponentId("control"))
    return pool


def test_an_idle_device_asks_the_controlnets_of_a_run_and_needs_no_denoiser_for_that():
    (split,) = of(Split, wait(a_pool_with_controls("control"), a_controlled()))
    assert (split.device, split.helper, split.part) == ("gpu0", "gpu1", "controls")
    assert "ControlNets" in split.reason


def test_it_does_not_where_a_pass_needs_them_at_once():
    assert of(Split, wait(a_pool_with_controls("control", late=False), a_controlled())) == []
    assert of(Load, wait(a_pool_with_controls(late=False), a_controlled(cost=60.0))) == []


def test_an_idle_device_gets_the_controlnets_of_a_run_that_is_long_enough_for_it():
    assert of(Load, wait(a_pool_with_controls(), a_controlled(cost=1.0))) == []
    pool = a_pool_with_controls()
    (load,) = of(Load, wait(pool, a_controlled(cost=60.0)))
    assert (load.component, load.device) == ("control", "gpu1")
    assert plan(pool, 0.1) == []  # it is on its way
    holds(pool, "gpu1", "control")
    (split,) = plan(pool, 2.0)
    assert (split.helper, split.part) == ("gpu1", "controls")


def test_guidances_halves_go_first_and_take_their_controlnets_along():
    pool = a_pool_with_controls("sd15", "control")
    (split,) = of(Split, wait(pool, replace(a_controlled(parts=2), rows=2)))
    assert split.part == "calls"


def test_who_asks_the_controlnets_is_taken_back_too():
    pool = a_pool_with_controls("control", "vae")
    wait(pool, a_controlled())
    assert pool.devices["gpu1"].pins == {"control": 1}
    decisions = wait(pool, replace(a_controlled("b", order=1), components=(ComponentId("control"),)))
    unsplit = of(Unsplit, decisions)
    assert [(u.key, u.device, u.helper) for u in unsplit] == [("a", "gpu0", "gpu1")]
    assert pool.devices["gpu0"].running["a"].aside is None


@pytest.mark.parametrize(("hurry", "helpers"), [(0.3, 0), (30.0, 1)])
def test_no_device_is_lent_for_passes_that_hurried_ops_could_not_wait_for(hurry, helpers):
    """A pass dealt to two devices takes 52 ms here, of 2 rows at home 100."""
    pool = a_splitting_pool(3, "sd15", "clip")
    for number in range(20):
        pool.add(a_whole(f"encode{number}", "clip", deadline=0.2 + hurry), 0.0)
        pool.remove(OpKey(f"encode{number}"))
    assert len(of(Split, wait(pool, a_step("a", parts=2)))) == helpers
