"""MODEL handles: what packs set on them travels as data, and acts in a run."""

import pickle

import pytest
import torch

from backend.components import Weights
from backend.errors import UnsupportedOption
from backend.patches import Foreign
from backend.references import Model
from backend.sampling.foreign import View, code_of
from comfy_compat.models import model_reference
from comfy_compat.patcher import ModelPatcher

BARE = Model(Weights("denoiser", "digest", ()))


def a_view(**more) -> View:
    x, cond, uncond = (torch.full((2, 4, 2, 2), value) for value in (1.0, 3.0, 2.0))
    return View(x, torch.tensor(0.5), 7.0, cond, uncond, True, **more)


@pytest.mark.usefixtures("comfy")
def test_an_untouched_clone_is_the_model_it_came_from():
    assert model_reference(ModelPatcher.of(BARE).clone()) == BARE


@pytest.mark.usefixtures("comfy")
def test_functions_act_with_comfyuis_arguments_after_their_journey():
    factor = 10.0
    handle = ModelPatcher.of(BARE).clone()
    handle.set_model_sampler_pre_cfg_function(lambda args: [args["conds_out"][0] * 2, args["conds_out"][1]])
    handle.set_model_sampler_cfg_function(lambda args: args["uncond"] + args["cond_scale"] * args["cond"])
    handle.set_model_sampler_post_cfg_function(
        lambda args: args["denoised"] * factor + args["sigma"][:, None, None, None]
    )
    (patch,) = model_reference(handle).patches
    code = code_of(pickle.loads(pickle.dumps(patch)))
    view = a_view()
    assert [float(part[0, 0, 0, 0]) for part in code.before(view)] == [6.0, 2.0]
    assert float(code.instead(view)[0, 0, 0, 0]) == 1.0 - (-1.0 + 7.0 * -2.0)
    assert float(code.after(torch.ones(2, 4, 2, 2), view)[1, 0, 0, 0]) == 10.5
    assert not code.evaluates


@pytest.mark.usefixtures("comfy")
def test_a_next_pack_sees_what_the_first_has_set_and_adds_to_it():
    first = ModelPatcher.of(BARE).clone()
    first.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + 1, True)
    second = ModelPatcher.of(model_reference(first)).clone()
    second.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 2)
    assert len(first.model_options["sampler_post_cfg_function"]) == 1
    (patch,) = model_reference(second).patches
    code = code_of(patch)
    assert code.whole
    assert float(code.after(torch.ones(2, 4, 2, 2), a_view())[0, 0, 0, 0]) == 4.0


@pytest.mark.usefixtures("comfy")
def test_equal_work_of_a_pack_has_one_key_and_that_of_others_another():
    def patched(value):
        handle = ModelPatcher.of(BARE).clone()
        handle.model_options["disable_cfg1_optimization"] = value
        return model_reference(handle)

    assert patched(True) == patched(True)
    assert patched(True) != patched(1.5)
    assert all(isinstance(patch, Foreign) for patch in patched(True).patches)


@pytest.mark.usefixtures("comfy")
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda m: m.add_wrapper_with_key("unheard_of", "k", print), "of kind unheard_of"),
        (lambda m: m.add_callback_with_key("on_inject_model", "k", print), "of kind on_inject_model"),
        (lambda m: m.set_model_patch(print, "double_block"), "patches of kind double_block"),
        (lambda m: m.add_patches({"w": (torch.ones(1),)}), "1 weights"),
    ],
)
def test_what_a_run_would_leave_out_is_refused_by_name(spoil, named):
    handle = ModelPatcher.of(BARE).clone()
    spoil(handle)
    with pytest.raises(UnsupportedOption, match=named):
        model_reference(handle)
