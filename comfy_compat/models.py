"""MODEL values on their way back: what packs recorded on a patcher becomes data on the server's reference."""

import hashlib
import pickle
from dataclasses import replace
from typing import Any

from backend.calling import current
from backend.errors import UnsupportedOption
from backend.patches import Foreign
from backend.references import Model
from comfy_compat.foreign import Part
from comfy_compat.install import the_bridge
from comfy_compat.packing import packed
from comfy_compat.patcher import ModelPatcher


def model_reference(model: Any) -> Model:
    """The reference behind a MODEL, with what packs set on it.

    Raises: UnsupportedOption for a network of a pack's own, or changed weights; Unpackable.
    """
    if isinstance(model, Model):
        return model
    reference = getattr(model, "reference", None)
    if not isinstance(model, ModelPatcher) or not isinstance(reference, Model):
        remedy = (
            "Load models with the server's loaders: networks of a pack's own are not run in its step loop."
        )
        raise UnsupportedOption("model", type(model).__name__, remedy)
    if model.patches:
        remedy = "Apply LoRAs by their files (comfy.sd.load_lora_for_models): raw weights can't be added yet."
        raise UnsupportedOption("model.add_patches", f"{len(model.patches)} weights", remedy)
    others = tuple(patch for patch in reference.patches if not isinstance(patch, Foreign))
    hooks = model.hooks()
    if hooks.empty:
        return reference if len(others) == len(reference.patches) else replace(reference, patches=others)
    if left_out := hooks.unsupported():
        remedy = "A run can't do that yet: leave the node out."
        raise UnsupportedOption("model", "; ".join(left_out), remedy)
    known = next((patch for patch in reference.patches if isinstance(patch, Foreign)), None)
    code = packed(hooks, the_bridge(), "What was set on the model")
    if known is not None and known.code == code:
        return reference
    return replace(reference, patches=(*others, Foreign(code, owner())))


def part_code(part: Part, what: str) -> bytes:
    """A pack's object, packed for a worker. Raises: Unpackable, naming `what`."""
    return packed(part, the_bridge(), what)


def unpickled(code: bytes) -> Part:
    """What `part_code` packed, in this process."""
    part = pickle.loads(code)
    assert isinstance(part, Part)
    return part


def owner() -> str:
    """Whose functions they are: state that they keep is not shared with other clients."""
    call = current()
    name = "" if call is None else str(call.client or call.job)
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
