"""LoRAs are merged into a copy of the weights for long runs that are alone on their device."""

from dataclasses import replace

from backend.schedule.pool import Evict, Run
from backend.schedule.rules import Rules
from tests.backend.schedule.build import GIB, a_pool, a_profile, a_step, holds, of, wait

LONG = 1000.0  # seconds of a run


def runs(pool, *ops) -> dict[str, bool]:
    return {run.key: run.merge for run in of(Run, wait(pool, *ops))}


def test_a_long_run_gets_a_copy_and_a_short_one_does_not():
    pool = a_pool(2)
    for device in ("gpu0", "gpu1"):
        holds(pool, device, "sd15")
    long = a_step("long", adapted=True, cost=LONG, path=LONG)
    assert runs(pool, long) == {"long": True}
    assert runs(pool, a_step("short", model="sdxl", adapted=True, cost=0.1)) == {"short": False}


def test_without_loras_or_without_the_rule_there_is_no_copy():
    assert runs(a_pool(), a_step("a", cost=LONG)) == {"a": False}
    rules = Rules(merge=False)
    assert runs(a_pool(rules=rules), a_step("a", adapted=True, cost=LONG)) == {"a": False}


def test_who_joins_a_batch_gets_no_copy():
    pool = a_pool()
    holds(pool, "gpu0", "sd15")
    first, mate = (a_step(key, adapted=True, cost=LONG, user=key) for key in "ab")
    assert runs(pool, first, mate) == {"a": True, "b": False}


def test_a_copy_takes_memory_as_long_as_its_run():
    pool = a_pool(gib=4)
    holds(pool, "gpu0", "sd15")
    assert runs(pool, a_step("a", adapted=True, cost=LONG)) == {"a": True}
    assert pool.devices["gpu0"].free == 2 * GIB
    pool.done("a", 1.0)
    assert pool.devices["gpu0"].free == 3 * GIB


def test_a_run_that_is_stopped_and_resumed_keeps_its_copy():
    pool = a_pool(gib=4)
    holds(pool, "gpu0", "sd15")
    runs(pool, a_step("a", adapted=True, cost=LONG))
    pool.pause("a", 1.0)
    assert pool.devices["gpu0"].free == 2 * GIB
    wait(pool, now=2.0)
    pool.done("a", 1.0)
    assert pool.devices["gpu0"].free == 3 * GIB


def test_what_costs_more_to_bring_back_than_the_copy_saves_stays():
    cheap, dear = (a_pool(gib=2, profile=a_profile(load=load)) for load in (1.0, 100.0))
    for pool in (cheap, dear):
        holds(pool, "gpu0", "sd15", "vae")
    op = replace(a_step("a", adapted=True), cost=LONG)
    made = wait(cheap, op)
    assert [evict.component for evict in of(Evict, made)] == ["vae"]
    assert of(Run, made)[0].merge
    assert runs(dear, op) == {"a": False}
