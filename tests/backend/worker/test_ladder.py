"""What is tried where memory runs out: with counted work, then on a worker with a limit."""

from dataclasses import replace

import pytest
import torch

from backend.errors import OutOfMemory
from backend.ops import DecodeLatent, EncodeText
from backend.types import Latent, OpKey
from backend.worker.ladder import TILES, Ladder
from backend.worker.memory import Memory
from backend.worker.messages import Failed, LoadComponent, Loaded, Relief, RunOp, Table, Unload, Unloaded
from backend.worker.steploop import StepLoop
from tests.backend.worker.fakes import Formula, a_run, an_op
from tests.backend.worker.test_loop import Desk

MB = 1 << 20


class Store:
    """Idle components of 10 MB each, under a limit of 100 MB, and a ladder over them."""

    def __init__(self, settings, idle=0, busy=0):
        self.idle, self.busy, self.asked = idle, busy, []
        limited = replace(settings, worker_memory=100 * MB)
        self.memory = Memory(torch.device("cpu"), limited, lambda: (self.idle + self.busy) * 10 * MB)
        self.ladder = Ladder(self.memory, self.evict)

    def evict(self, shortage):
        self.asked.append(shortage)
        needed = self.idle if shortage is None else -(-shortage // (10 * MB))
        gone = needed if needed <= self.idle else 0
        self.idle -= gone
        return gone

    def take(self, megabytes):
        self.memory.claim("work", megabytes * MB)
        return "done"


@pytest.fixture
def store(tiny_settings):
    return Store(tiny_settings, idle=4, busy=2)


def test_idle_components_go_only_as_far_as_they_must(store):
    assert store.ladder.attempt("work", lambda: store.take(40)) == "done"
    assert store.idle == 4
    assert store.ladder.attempt("work", lambda: store.take(60)) == "done"
    assert store.idle == 2
    assert store.ladder.relief == Relief(evicted=2)
    with pytest.raises(OutOfMemory, match="about 90 MB"):
        store.ladder.attempt("work", lambda: store.take(90))
    assert store.idle == 2  # they would be missed for nothing


def test_a_devices_own_refusal_drops_all_that_is_idle_once(store):
    calls = []

    def work():
        calls.append(store.idle)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    with pytest.raises(OutOfMemory, match="did not fit"):
        store.ladder.attempt("work", work)
    assert calls == [4, 0]


def test_other_errors_are_not_the_ladders(store):
    with pytest.raises(ZeroDivisionError):
        store.ladder.attempt("work", lambda: 1 / 0)
    assert store.asked == []


def test_whole_work_that_does_not_fit_runs_in_the_largest_tiles_that_do(store):
    store.busy = 5
    sizes = {None: 900, 1024: 400, 512: 50, 256: 10}
    asked = []

    def work(tiles):
        asked.append(tiles)
        store.take(sizes[tiles.size if tiles else None])
        return tiles

    assert store.ladder.tiled("work", None, work) == TILES[1]
    assert store.ladder.relief.tiled == 1
    with pytest.raises(OutOfMemory):  # tiles that the user chose stay as they are
        store.ladder.tiled("work", TILES[0], work)
    assert store.ladder.tiled("work", TILES[2], work) == TILES[2]
    assert store.ladder.relief.tiled == 1


class Hungry(Formula):
    """Needs 10 MB a row, and has the store's claims checked."""

    def working_bytes(self, rows, shape):
        return rows * 10 * MB


def run_all(ladder, network, count, max_rows=64):
    """Runs of two rows each to their ends: the results by key, and the failures."""
    reports = []
    loop = StepLoop(max_rows, reports.append, ladder.passes)
    for seed in range(count):
        loop.add(an_op(), a_run(f"op{seed}", network, seed), None)
    while len(loop):
        loop.turn()
    failures = [r for r in reports if isinstance(r, Failed)]
    return {r.key: r.outputs[0].samples for r in reports if hasattr(r, "outputs")}, failures


def test_a_pass_is_cut_to_what_fits_and_the_results_are_the_same(store):
    store.idle, store.busy = 0, 6  # room for four rows
    network = Hungry()
    results, failures = run_all(store.ladder, network, 4)
    assert failures == []
    assert max(network.passes) == 4
    assert store.ladder.relief == Relief(split=1)  # what fits is remembered: it is found out once
    store.busy = 0
    store.ladder.forget()
    alone, _ = run_all(store.ladder, Formula(), 4)
    assert all(torch.equal(results[key], alone[key]) for key in alone)


def test_a_row_that_does_not_fit_fails_its_op_alone(store):
    store.idle, store.busy = 0, 9

    class Uneven(Formula):
        def working_bytes(self, rows, shape):
            return rows * (40 if shape[-1] > 4 else 5) * MB

    reports, network = [], Uneven()
    loop = StepLoop(64, reports.append, store.ladder.passes)
    loop.add(an_op(), a_run("small", network, 1), None)
    loop.add(an_op(), a_run("large", network, 2, size=8), None)
    while len(loop):
        loop.turn()
    assert [r.key for r in reports if isinstance(r, Failed)] == ["large"]
    assert [r.key for r in reports if hasattr(r, "outputs")] == ["small"]


def limited(settings, megabytes):
    return Desk(replace(settings, worker_memory=int(megabytes * MB)))


def table(desk):
    return desk.mail.of(Table)[-1]


def sizes(desk):
    return {r.label.split()[0]: r.nbytes for r in table(desk).resident}


def test_a_worker_under_a_limit_drops_the_least_recently_used_component(tiny_settings):
    desk = limited(tiny_settings, 4096)
    load = [LoadComponent(w) for w in (desk.vae.weights, *desk.clip.weights, desk.model.weights)]
    desk.give(*load)
    desk.turns(1)
    all_sizes = sizes(desk)
    assert set(all_sizes) == {"vae", "text_encoder", "denoiser"}
    assert all(m.seconds > 0 and m.nbytes > 0 for m in desk.mail.of(Loaded))
    assert table(desk).loads == 3
    assert table(desk).info.free <= 4096 * MB - sum(all_sizes.values())

    # room for all of them, but not for what a decode needs beside them
    desk = limited(tiny_settings, (all_sizes["text_encoder"] + all_sizes["vae"]) / MB + 39)
    desk.give(*load, RunOp(OpKey("t"), EncodeText(desk.clip, "x"), {}))
    desk.turns(1)
    assert set(sizes(desk)) == {"vae", "text_encoder", "denoiser"}
    desk.give(RunOp(OpKey("i"), DecodeLatent(desk.vae, Latent(torch.zeros(1, 4, 16, 16))), {}))
    desk.turns(1)
    assert desk.result("i")
    assert set(sizes(desk)) == {"vae", "text_encoder"}  # the denoiser was not used since it was loaded
    assert table(desk).relief == Relief(evicted=1)
    (gone,) = desk.mail.of(Unloaded)
    assert (gone.component, gone.reason) == (desk.model.weights.id, "evicted")


def test_a_decode_that_does_not_fit_whole_runs_in_tiles_and_is_nearly_the_same(tiny_settings):
    latent = Latent(torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(1)))
    desk = limited(tiny_settings, 8192)
    desk.give(RunOp(OpKey("whole"), DecodeLatent(desk.vae, latent), {}))
    desk.turns(1)
    ((whole,),) = desk.result("whole")
    held = sizes(desk)["vae"]
    desk = limited(tiny_settings, held / MB + 115)
    desk.give(RunOp(OpKey("tiled"), DecodeLatent(desk.vae, latent), {}))
    desk.turns(1)
    ((tiled,),) = desk.result("tiled")
    assert table(desk).relief == Relief(tiled=1)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.05


def test_an_op_that_nothing_helps_fails_with_advice_and_the_next_one_runs(tiny_settings):
    desk = limited(tiny_settings, 120)
    huge = Latent(torch.zeros(1, 4, 1024, 1024))
    desk.give(RunOp(OpKey("huge"), DecodeLatent(desk.vae, huge), {}))
    desk.turns(1)
    (failure,) = desk.mail.of(Failed)
    assert failure.type == "backend.errors.OutOfMemory"
    assert "smaller batch or image" in failure.message
    assert "limit is 120 MB" in failure.message
    assert table(desk).relief.failed == 1
    desk.give(RunOp(OpKey("small"), DecodeLatent(desk.vae, Latent(torch.zeros(1, 4, 8, 8))), {}))
    desk.turns(1)
    assert desk.result("small")


def test_a_component_larger_than_the_limit_stays_on_the_host_and_does_the_same(tiny_settings):
    def encoded(megabytes):
        desk = limited(tiny_settings, megabytes)
        desk.give(RunOp(OpKey("t"), EncodeText(desk.clip, "x"), {}))
        desk.turns(1)
        ((conds,),) = desk.result("t")
        return desk, conds[0].tokens

    roomy, whole = encoded(4096)
    tight, offloaded = encoded(1)
    assert torch.equal(whole, offloaded)
    assert table(tight).relief == Relief(offloaded=1)
    assert sizes(tight)["text_encoder"] < sizes(roomy)["text_encoder"]


def test_a_load_ahead_that_does_not_fit_is_no_error(tiny_settings):
    desk = limited(tiny_settings, 1)
    desk.give(LoadComponent(desk.vae.weights))
    desk.turns(1)
    assert desk.mail.of(Loaded) == []
    assert desk.mail.of(Failed) == []


def test_what_the_server_unloads_is_reported(tiny_settings):
    desk = limited(tiny_settings, 4096)
    desk.give(LoadComponent(desk.vae.weights), Unload((desk.vae.weights.id,)))
    desk.turns(1)
    (gone,) = desk.mail.of(Unloaded)
    assert (gone.component, gone.reason) == (desk.vae.weights.id, "asked")
