from backend.components import LoraUse, Weights, towards
from backend.references import ClipHooks, Hook, Hooks, Keyframe, Keyframes, OtherModel
from backend.worker.hooks import Encoding, encodings

LORA = Weights("lora", "a", ())
FRAMES = Keyframes((Keyframe(0.5, 0.0), Keyframe(1.0, 0.4)))
HOOKS = Hooks((Hook(LORA, 1.0, 0.8, FRAMES),))


def test_a_text_without_hooks_is_encoded_once():
    assert list(encodings(None)) == [Encoding()]


def test_an_unscheduled_clip_ignores_keyframes_and_its_conditions_keep_them():
    assert list(encodings(ClipHooks(HOOKS, True, False))) == [
        Encoding({"hooks": HOOKS}, (LoraUse(LORA, 0.8),))
    ]


def test_a_scheduled_clip_encodes_for_each_stretch_of_its_keyframes():
    first, second = encodings(ClipHooks(HOOKS, False, True))
    assert first == Encoding({"clip_start_percent": 0.0, "clip_end_percent": 0.4}, (LoraUse(LORA, 0.4),))
    assert second == Encoding({"clip_start_percent": 0.4, "clip_end_percent": 1.0}, (LoraUse(LORA, 0.8),))


def test_a_hook_that_is_for_the_model_alone_changes_no_text():
    hooks = Hooks((Hook(LORA, 1.0, 0.0),))
    assert list(encodings(ClipHooks(hooks, False, False))) == [Encoding()]


def test_a_model_as_a_lora_draws_the_encoders_of_the_same_part_towards_its_own():
    own, other = (Weights("text_encoder", digest, (), "clip_l") for digest in "xy")
    model = OtherModel(Weights("denoiser", "d", ()), (Weights("text_encoder", "g", (), "clip_g"), other))
    (found,) = encodings(ClipHooks(Hooks((Hook(model, 1.0, 0.5),)), False, False))
    assert found.loras == ()
    assert found.moved(own) == towards(own, [(other, 0.5)])
    assert found.moved(own) != own
    assert towards(own, [(other, 0.0)]) is own
