import pytest

from backend.components import Weights
from backend.references import Hook, Hooks, Keyframe, Keyframes
from tests.nodes.build import run

HOOKS = Hooks((Hook(Weights("lora", "a", ()), 1.0, 0.5),))


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
