"""What the schedule is told that an op needs."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from backend.components import Adapter, Weights
from backend.engine.board import Board
from backend.engine.clock import ManualClock
from backend.engine.fleet import Seat
from backend.engine.ready import Claim, weights_of
from backend.engine.results import Result, Results
from backend.guiders import CfgGuider, Noise, Sampler, Schedule
from backend.ops import Call, Denoise, EncodeText
from backend.patches import BlockGuide, FreeU
from backend.references import Clip, ControlNet, Model, PatchNetwork, Ref, Vae
from backend.schedule.rules import Rules
from backend.types import DeviceId, JobKey, NodeId, OpKey
from backend.worker.messages import DeviceInfo
from tests.backend.graph.toys import a_file, a_registry

GIB = 1 << 30


class Deaf:
    """A worker that takes everything and does nothing."""

    def __getattr__(self, name: str):
        return lambda *args, **more: None


def a_board(workers: int) -> Board:
    board = Board(a_registry(), ManualClock(100.0), Results(1 << 20), Rules())
    for index in range(workers):
        id = DeviceId(f"gpu{index}")
        board.add_device(id, Deaf, slots=1, max_rows=2)
        seat: Seat = board.fleet[id]
        board.up(seat, DeviceInfo("fake", "cpu", None, 64 * GIB, 64 * GIB))
    return board


def a_run(model: str, positive: object) -> Denoise:
    guider = CfgGuider(Model(Weights("denoiser", model, (a_file(model),))), positive, positive, 7.0)
    return Denoise(guider, Ref(OpKey("latent"), 0, 0), Noise(0), Sampler("euler"), Schedule("normal", 4))


def test_a_run_needs_the_controlnets_that_reach_its_conditions_through_other_nodes():
    board, net = a_board(1), Weights("controlnet", "canny", (a_file("canny"),))
    apply = Call("Apply", {"net": (ControlNet(net),)}, NodeId("1"))
    combine = Call("Combine", {"a": (Ref(OpKey("apply"), 0, 0),)}, NodeId("2"))
    latent = Call("Empty", {}, NodeId("3"))
    run = a_run("sdxl", Ref(OpKey("combine"), 0, 0))
    ops = {OpKey("latent"): latent, OpKey("apply"): apply, OpKey("combine"): combine, OpKey("run"): run}
    board.want(JobKey(1), Claim((1.0, 1)), ops)
    assert board.pool.demand[net.id] == 1
    ready = board._ready_op(board.graph[OpKey("run")], 0.0)
    assert ready.components == (run.guider.model.weights.id, net.id)
    assert ready.controls == (net.id,)
    board.drop(JobKey(1))
    assert not board.pool.demand
    for key in ("combine", "latent"):  # made once, kept, and read again
        board.results.put(OpKey(key), Result(SimpleNamespace(nbytes=1, close=lambda: None), (1,), 0.1))
    board.want(JobKey(2), Claim((2.0, 2)), {OpKey("again"): replace(run, noise=Noise(1))})
    assert board._ready_op(board.graph[OpKey("again")], 0.0).controls == (net.id,)


def test_a_run_needs_the_networks_of_its_models_patches():
    net = PatchNetwork(Weights("model_patch", "canny", (a_file("canny"),)))
    vae = Vae(Weights("vae", "wan", (a_file("wan"),)))
    run = a_run("qwen", ())
    guided = BlockGuide(net, vae, torch.zeros(1, 8, 8, 3), 1.0)
    model = run.guider.model.with_patch(FreeU(1, 1, 1, 1, 2)).with_patch(guided)
    run = replace(run, guider=replace(run.guider, model=model))
    assert weights_of(run) == [model.weights, net.weights, vae.weights]


def test_a_run_needs_its_loras_too_which_come_with_it_and_not_before():
    board = a_board(1)
    lora = Weights("lora", "style", (a_file("style"),), nbytes=3 * GIB)
    run = a_run("sdxl", Ref(OpKey("text"), 0, 0))
    model = run.guider.model.with_lora(lora, 0.5)
    run = replace(run, guider=replace(run.guider, model=model))
    clip = Clip((Weights("text_encoder", "clip", (a_file("clip"),)),)).with_lora(lora, 0.5)
    ops = {
        OpKey("latent"): Call("Empty", {}, NodeId("3")),
        OpKey("text"): EncodeText(clip, "a"),
        OpKey("run"): run,
    }
    board.want(JobKey(1), Claim((1.0, 1)), ops)
    adapters = Adapter(lora, model.weights), Adapter(lora, clip.weights[0])
    for op, adapter in zip(("run", "text"), adapters, strict=True):
        ready = board._ready_op(board.graph[OpKey(op)], 0.0)
        assert ready.components[1:] == (adapter.id,)
        assert board.pool.profile.nbytes(adapter.id) == 3 * GIB
        assert board.outlook.loadable[adapter.id] == adapter
    assert not any(id.startswith("lora") for id in board.pool.cold)
    board.drop(JobKey(1))
    assert not board.outlook.loadable
