"""ControlNets on conditionings."""

import torch

from backend.components import Weights
from backend.references import ControlNet, ControlUse, Model
from backend.types import Cond
from tests.nodes.build import a_storage, run

NET = ControlNet(Weights("controlnet", "c", ()))
IMAGE = torch.zeros(1, 8, 8, 3)


def a_conditioning(**options):
    return (Cond(torch.zeros(1, 77, 8), None, options),)


def test_a_loader_names_the_file_and_whether_its_additions_are_averaged(tmp_path):
    storage = a_storage(tmp_path)
    for name in ("canny.safetensors", "control_shuffle.safetensors"):
        (tmp_path / "models" / "controlnet" / name).write_bytes(name.encode())
    canny, shuffle = (
        run("ControlNetLoader", storage, control_net_name=name)
        for name in ("canny.safetensors", "control_shuffle.safetensors")
    )
    assert (canny.weights.kind, canny.average, shuffle.average) == ("controlnet", False, True)
    file = storage.file("controlnet", "canny.safetensors")
    model = Model(Weights("denoiser", "m", (storage.file("controlnet", "control_shuffle.safetensors"),)))
    both = run("DiffControlNetLoader", storage, model=model, control_net_name="canny.safetensors")
    assert both.weights.files == (file, *model.weights.files)
    assert both.weights.id != canny.weights.id


def test_applying_one_adds_it_to_those_there_are():
    (once,) = run(
        "ControlNetApply", conditioning=a_conditioning(), control_net=NET, image=IMAGE, strength=0.5
    )
    assert once.options == {"control": (ControlUse(NET, IMAGE, 0.5),), "control_apply_to_uncond": True}
    inputs = {"strength": 1.0, "start_percent": 0.1, "end_percent": 0.6}
    positive, negative = run(
        "ControlNetApplyAdvanced",
        positive=(once,),
        negative=a_conditioning(strength=2.0),
        control_net=NET,
        image=IMAGE,
        **inputs,
    )
    new = ControlUse(NET, IMAGE, 1.0, 0.1, 0.6)
    assert positive[0].options["control"] == (ControlUse(NET, IMAGE, 0.5), new)
    assert negative[0].options == {"strength": 2.0, "control": (new,), "control_apply_to_uncond": False}


def test_at_strength_zero_nothing_changes():
    given = a_conditioning()
    applied = run("ControlNetApply", conditioning=given, control_net=NET, image=IMAGE, strength=0.0)
    assert applied is given
    both = run(
        "ControlNetApplyAdvanced",
        positive=given,
        negative=given,
        control_net=NET,
        image=IMAGE,
        strength=0.0,
    )
    assert both == (given, given)
