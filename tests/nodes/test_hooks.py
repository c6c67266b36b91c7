import pytest

from backend.components import Weights
from backend.references import Clip, ClipHooks, Hook, Hooks
from tests.nodes.build import a_storage, run

HOOKS = Hooks((Hook(Weights("lora", "a", ()), 1.0, 0.5),))


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


def test_a_clip_gets_hooks():
    clip = Clip((Weights("text_encoder", "c", ()),))
    assert run("SetClipHooks", clip=clip, hooks=HOOKS).hooks == ClipHooks(HOOKS, True, False)
    assert run("SetClipHooks", clip=clip) is clip
