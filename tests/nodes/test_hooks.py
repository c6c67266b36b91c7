import pytest
import torch

from backend.references import Clip, ClipHooks, Hook, Hooks, Keyframe, Keyframes, Weights
from backend.types import Cond
from tests.nodes.build import a_storage, run

LORA, OTHER = (Weights("lora", name, ()) for name in "ab")
HOOKS = Hooks((Hook(LORA, 1.0, 0.5),))
POSITIVE = (Cond(torch.zeros(1, 77, 8)),)
NEGATIVE = (Cond(torch.ones(1, 77, 8)),)


@pytest.fixture
def storage(tmp_path):
    storage = a_storage(tmp_path)
    (tmp_path / "models" / "loras").mkdir(parents=True, exist_ok=True)
    (tmp_path / "models" / "loras" / "a.safetensors").write_bytes(b"a lora")
    return storage


def test_a_lora_hook_joins_those_before_it_once(storage):
    made = run("CreateHookLora", storage, lora_name="a.safetensors", strength_clip=0.5, prev_hooks=HOOKS)
    assert len(made.hooks) == 2
    assert made.hooks[0] == HOOKS.hooks[0]
    again = run("CreateHookLora", storage, lora_name="a.safetensors", strength_clip=0.5, prev_hooks=made)
    assert again == made
    alone = run("CreateHookLoraModelOnly", storage, lora_name="a.safetensors")
    assert (alone.hooks[0].model, alone.hooks[0].clip) == (1.0, 0.0)


def test_a_hook_without_strength_is_none(storage):
    inputs = {"lora_name": "a.safetensors", "strength_model": 0, "strength_clip": 0}
    assert run("CreateHookLora", storage, **inputs) == Hooks()


def test_keyframes_are_kept_in_the_order_of_their_starts():
    frames = run("CreateHookKeyframe", strength_mult=0.5, start_percent=0.6)
    frames = run("CreateHookKeyframe", strength_mult=0.2, start_percent=0.1, prev_hook_kf=frames)
    assert frames == Keyframes((Keyframe(0.2, 0.1), Keyframe(0.5, 0.6)))
    assert run("SetHookKeyframes", hooks=HOOKS, hook_kf=frames).hooks[0].keyframes == frames
    assert run("SetHookKeyframes", hooks=HOOKS) is HOOKS


def test_interpolated_keyframes_give_the_first_a_step_of_its_own():
    made = run(
        "CreateHookKeyframesInterpolated",
        strength_start=0.0,
        strength_end=1.0,
        interpolation="ease_in",
        keyframes_count=3,
    )
    assert made.frames == (Keyframe(0.0, 0.0, 1), Keyframe(0.25, 0.5, 0), Keyframe(1.0, 1.0, 0))


def test_keyframes_from_floats_take_a_list_or_a_number():
    assert [f.strength for f in run("CreateHookKeyframesFromFloats", floats_strength=[1, 2]).frames] == [1, 2]
    assert run("CreateHookKeyframesFromFloats", floats_strength=0.5).frames == (Keyframe(0.5, 0.0, 1),)
    with pytest.raises(ValueError, match="a number or a list of numbers, not a NoneType"):
        run("CreateHookKeyframesFromFloats", floats_strength=None)


def test_properties_are_set_on_the_new_conditions_alone():
    mask = torch.ones(8, 8)
    positive, negative = run(
        "PairConditioningSetPropertiesAndCombine",
        positive=POSITIVE,
        negative=NEGATIVE,
        positive_NEW=NEGATIVE,
        negative_NEW=POSITIVE,
        strength=0.5,
        set_cond_area="mask bounds",
        mask=mask,
        hooks=HOOKS,
        timesteps=(0.1, 0.6),
    )
    assert positive[0] is POSITIVE[0]
    options = negative[1].options
    assert options["hooks"] == HOOKS
    assert options["mask"].shape == (1, 8, 8)
    assert (options["mask_strength"], options["set_area_to_bounds"]) == (0.5, True)
    assert (options["start_percent"], options["end_percent"]) == (0.1, 0.6)


def test_hooks_of_a_condition_add_up():
    other = Hooks((Hook(OTHER, 1.0, 1.0),))
    once = run("ConditioningSetProperties", cond_NEW=POSITIVE, set_cond_area="default", hooks=HOOKS)
    (cond,) = run("ConditioningSetProperties", cond_NEW=once, set_cond_area="default", hooks=other)
    assert cond.options["hooks"] == run("CombineHooks2", hooks_A=HOOKS, hooks_B=other)
    assert "mask" not in cond.options


def test_default_conditions_are_marked():
    made = run("ConditioningSetDefaultCombine", cond=POSITIVE, cond_DEFAULT=NEGATIVE)
    assert [cond.options.get("default", False) for cond in made] == [False, True]


def test_a_range_comes_with_what_is_before_and_after_it():
    assert run("ConditioningTimestepsRange", start_percent=0.2, end_percent=0.7) == (
        (0.2, 0.7),
        (0.0, 0.2),
        (0.7, 1.0),
    )


def test_a_clip_gets_hooks():
    clip = Clip((Weights("text_encoder", "c", ()),))
    assert run("SetClipHooks", clip=clip, hooks=HOOKS).hooks == ClipHooks(HOOKS, True, False)
    assert run("SetClipHooks", clip=clip) is clip
