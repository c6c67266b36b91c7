"""Whole ops on real components against what ComfyUI computed."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from backend.components import LoraUse, Weights
from backend.guiders import CfgGuider, Noise, Sampler, Schedule
from backend.ops import DecodeLatent, Denoise, EncodeText
from backend.references import Clip, Model, Vae
from backend.settings import Settings
from backend.storage import Storage
from backend.types import Latent, OpKey
from backend.worker.bench import Bench
from backend.worker.execute import execute, start
from backend.worker.ladder import Ladder
from backend.worker.messages import Preview, Progress
from backend.worker.preview import Shown
from backend.worker.residents import Residents
from backend.worker.steploop import Ended, StepLoop
from tests.parity.reference import ABSENT, CACHE, SHARED, find_reference

BASE = CACHE / "base"
LIMIT = 2e-4

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def bench():
    if (reference := find_reference()) is None:
        pytest.skip(ABSENT)
    for layout in ("sd15", "lora_sd15"):
        reference.make_model(BASE, layout)
    settings = Settings(base_directory=BASE, cpu=True)
    residents = Residents(torch.device("cpu"), settings, lambda message: None)
    return Bench(residents, Ladder(residents.memory, lambda shortage: 0), lambda name: None)


class Case:
    """The KSampler of a case, as ops."""

    def __init__(self, name, bench, **changed):
        self.nodes = json.loads((SHARED / "parity" / "cases" / f"{name}.json").read_text())
        self.bench = bench
        self.inputs = {**self._node("KSampler")["inputs"], **changed}
        self.latent = load_file(SHARED / "parity" / "golden" / f"{name}.safetensors")["latent"]
        file = Storage(bench.residents._settings).file("checkpoints", "sd15.safetensors")
        self.weights = {kind: Weights(kind, "sd15", (file,)) for kind in ("denoiser", "text_encoder", "vae")}

    def _node(self, kind):
        return next(node for node in self.nodes.values() if node["class_type"] == kind)

    def _text(self, name):
        text = self.nodes[self.inputs[name][0]]["inputs"]["text"]
        ((conditioning,),) = execute(EncodeText(Clip((self.weights["text_encoder"],)), text), self.bench)
        return conditioning

    def op(self):
        i = self.inputs
        batch = self._node("EmptyLatentImage")["inputs"]
        guider = CfgGuider(
            Model(self.weights["denoiser"]), self._text("positive"), self._text("negative"), i["cfg"]
        )
        samples = torch.zeros(batch["batch_size"], 4, batch["height"] // 8, batch["width"] // 8)
        schedule = Schedule(i["scheduler"], i["steps"], i["denoise"])
        return Denoise(guider, Latent(samples), Noise(i["seed"]), Sampler(i["sampler_name"]), schedule)


def together(bench, ops, previews=None):
    """Run Denoise ops in one loop. Returns: their samples by position, the loop, the reports."""
    reports = []
    loop = StepLoop(8, reports.append)
    with torch.inference_mode():
        for i, op in enumerate(ops):
            loop.add(op, start(OpKey(str(i)), op, bench), previews)
        while len(loop):
            loop.turn()
    ended = {r.key: r.outputs[0].samples for r in reports if isinstance(r, Ended)}
    return [ended[OpKey(str(i))] for i in range(len(ops))], loop, reports


def error(ours, theirs):
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def test_a_sampling_run_equals_comfyuis_and_tells_how_far_it_is(bench):
    case = Case("batch-3", bench)  # tests/parity runs all cases, through a server
    (samples,), _, reports = together(bench, [case.op()], previews=Shown(64))
    assert error(samples, case.latent) < LIMIT
    assert sum(isinstance(r, Progress) for r in reports) == case.inputs["steps"]
    assert any(isinstance(r, Preview) for r in reports)


def test_two_runs_share_passes_and_each_equals_its_solo_run(bench):
    one, other = (
        Case("sampler-euler", bench),
        Case("sampler-euler", bench, seed=99, cfg=4.0, sampler_name="heun"),
    )
    file = Storage(bench.residents._settings).file("loras", "lora_sd15.safetensors")
    lora = LoraUse(Weights("lora", "style", (file,)), 0.8)
    changed = other.op()
    model = changed.guider.model.with_lora(lora.weights, lora.strength)
    changed = Denoise(
        CfgGuider(model, changed.guider.positive, changed.guider.negative, changed.guider.cfg),
        changed.latent,
        changed.noise,
        changed.sampler,
        changed.sigmas,
    )
    ops = [one.op(), changed]
    alone = [together(bench, [op])[0][0] for op in ops]
    batched, loop, _ = together(bench, ops)
    assert loop.counters.shared >= one.inputs["steps"]
    assert loop.counters.largest == 4
    assert max(error(a, b) for a, b in zip(batched, alone, strict=True)) < 1e-4
    assert error(alone[1], together(bench, [other.op()])[0][0]) > 1e-3  # the LoRA has an effect
    assert len([r for r in bench.residents.table() if r.label.startswith("denoiser")]) == 1


def test_an_image_is_decoded(bench):
    case = Case("sampler-euler", bench)
    ((image,),) = execute(DecodeLatent(Vae(case.weights["vae"]), Latent(case.latent)), bench)
    assert (image.dtype, tuple(image.shape)) == (torch.float32, (1, 64, 64, 3))
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert not math.isnan(float(image.sum()))
