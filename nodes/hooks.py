"""Hooks: LoRAs for single conditions, and for the encoding of their text."""

from functools import partial
from typing import Annotated

from backend.library import Library
from backend.node import Choice, Float, node
from backend.references import Clip, ClipHooks, Hook, Hooks, OtherModel
from backend.storage import Storage

CATEGORY = "advanced/hooks"
LoraStrength = Annotated[float, Float(-20.0, 20.0, step=0.01)]
LoraName = Annotated[str, Choice(lambda s: s.files("loras"))]
CheckpointName = Annotated[str, Choice(lambda s: s.files("checkpoints"))]
hook_node = partial(node, module="comfy_extras.nodes_hooks", experimental=True)


@hook_node("SetClipHooks", category=f"{CATEGORY}/clip", display_name="Set CLIP Hooks")
def set_clip_hooks(
    *,
    clip: Clip,
    apply_to_conds: bool = True,
    schedule_clip: bool = False,
    hooks: Hooks | None = None,
) -> Clip:
    """Encodes with the hooks' LoRAs; `schedule_clip`: anew for each keyframe."""
    return clip if hooks is None else clip.with_hooks(ClipHooks(hooks, apply_to_conds, schedule_clip))


@hook_node("CreateHookLora", category=f"{CATEGORY}/create", display_name="Create Hook LoRA")
def create_hook_lora(
    *,
    lora_name: LoraName,
    strength_model: LoraStrength = 1.0,
    strength_clip: LoraStrength = 1.0,
    prev_hooks: Hooks | None = None,
    library: Library,
) -> Hooks:
    """A LoRA for the conditions that get the hook."""
    return _with_lora(prev_hooks, library, lora_name, strength_model, strength_clip)


@hook_node("CreateHookLoraModelOnly", category=f"{CATEGORY}/create", display_name="Create Hook LoRA (MO)")
def create_hook_lora_model_only(
    *,
    lora_name: LoraName,
    strength_model: LoraStrength = 1.0,
    prev_hooks: Hooks | None = None,
    library: Library,
) -> Hooks:
    """A LoRA for the conditions that get the hook, and not for the encoding of text."""
    return _with_lora(prev_hooks, library, lora_name, strength_model, strength_clip=0.0)


def _with_lora(
    before: Hooks | None, library: Library, name: str, strength_model: float, strength_clip: float
) -> Hooks:
    """The hooks before, and a LoRA's unless it has no strength at all."""
    hooks = before or Hooks()
    if strength_model == 0 and strength_clip == 0:
        return hooks
    return hooks.plus(Hooks((Hook(library.find("lora", "loras", name), strength_model, strength_clip),)))


@hook_node("CreateHookModelAsLora", category=f"{CATEGORY}/create", display_name="Create Hook Model as LoRA")
def create_hook_model_as_lora(
    *,
    ckpt_name: CheckpointName,
    strength_model: LoraStrength = 1.0,
    strength_clip: LoraStrength = 1.0,
    prev_hooks: Hooks | None = None,
    storage: Storage,
    library: Library,
) -> Hooks:
    """What sets a checkpoint apart, as a LoRA for the conditions that get the hook."""
    file = storage.file("checkpoints", ckpt_name)
    other = OtherModel(library.weights("denoiser", file), library.encoders(file))
    return (prev_hooks or Hooks()).plus(Hooks((Hook(other, strength_model, strength_clip),)))


@hook_node(
    "CreateHookModelAsLoraModelOnly",
    category=f"{CATEGORY}/create",
    display_name="Create Hook Model as LoRA (MO)",
)
def create_hook_model_as_lora_model_only(
    *,
    ckpt_name: CheckpointName,
    strength_model: LoraStrength = 1.0,
    prev_hooks: Hooks | None = None,
    storage: Storage,
    library: Library,
) -> Hooks:
    """The same, and not for the encoding of text."""
    other = OtherModel(library.weights("denoiser", storage.file("checkpoints", ckpt_name)), ())
    return (prev_hooks or Hooks()).plus(Hooks((Hook(other, strength_model, 0.0),)))


@hook_node("CombineHooks2", category=f"{CATEGORY}/combine", display_name="Combine Hooks [2]")
def combine_hooks_2(*, hooks_A: Hooks | None = None, hooks_B: Hooks | None = None) -> Hooks:
    """Hooks together."""
    return combined(hooks_A, hooks_B)


@hook_node("CombineHooks4", category=f"{CATEGORY}/combine", display_name="Combine Hooks [4]")
def combine_hooks_4(
    *,
    hooks_A: Hooks | None = None,
    hooks_B: Hooks | None = None,
    hooks_C: Hooks | None = None,
    hooks_D: Hooks | None = None,
) -> Hooks:
    """Hooks together."""
    return combined(hooks_A, hooks_B, hooks_C, hooks_D)


@hook_node("CombineHooks8", category=f"{CATEGORY}/combine", display_name="Combine Hooks [8]")
def combine_hooks_8(
    *,
    hooks_A: Hooks | None = None,
    hooks_B: Hooks | None = None,
    hooks_C: Hooks | None = None,
    hooks_D: Hooks | None = None,
    hooks_E: Hooks | None = None,
    hooks_F: Hooks | None = None,
    hooks_G: Hooks | None = None,
    hooks_H: Hooks | None = None,
) -> Hooks:
    """Hooks together."""
    return combined(hooks_A, hooks_B, hooks_C, hooks_D, hooks_E, hooks_F, hooks_G, hooks_H)


def combined(*parts: Hooks | None) -> Hooks:
    """All hooks of the parts, those that are in several once."""
    hooks = Hooks()
    for part in parts:
        hooks = hooks.plus(part)
    return hooks
