"""Nodes for reference cases that begin with given tensors: their conditioning and latent, as a pack would
bring them.
"""

import torch
from safetensors.torch import load_file

from . import functions


class ParityConditioning:
    """A conditioning from the tensors of a file."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "load"
    CATEGORY = "parity"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"path": ("STRING", {}), "side": ("STRING", {})}}

    def load(self, path, side):
        tensors = load_file(path)
        pooled = tensors.get(f"conditioning.{side}_pooled")
        options = {} if pooled is None else {"pooled_output": pooled}
        return ([[tensors[f"conditioning.{side}"], options]],)


class ParityLatent:
    """A latent of one value everywhere."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "parity"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"shape": ("STRING", {}), "value": ("FLOAT", {"default": 0.0})}}

    def make(self, shape, value):
        return ({"samples": torch.full([int(size) for size in shape.split(",")], value)},)


NODE_CLASS_MAPPINGS = {
    "ParityConditioning": ParityConditioning,
    "ParityLatent": ParityLatent,
    **functions.NODES,
}
