"""The border between our values and ComfyUI's shapes, which third-party nodes see and return.

LATENT is a dict, CONDITIONING a list of `[tensor, dict]`; MODEL, CLIP, VAE and the like are handles whose
methods use the shared engine; IMAGE, MASK, SIGMAS and plain values are the same.
"""

import torch

from backend.guiders import (
    BasicGuider,
    CfgGuider,
    DualCfgGuider,
    ForeignGuider,
    ForeignNoise,
    ForeignSampler,
    GivenNoise,
    Noise,
    PerpNegGuider,
    Sampler,
)
from backend.references import Clip, ControlNet, Model, Vae
from backend.types import Cond, Latent
from comfy_compat.clip import CLIP
from comfy_compat.conditions import (
    conditioning_of,
    is_condition,
    latent_dict,
    latent_of,
    pairs_of,
)
from comfy_compat.control import ControlBase
from comfy_compat.control import ControlNet as ControlHandle
from comfy_compat.guiders import CFGGuider, guider_of
from comfy_compat.install import the_bridge
from comfy_compat.models import model_reference
from comfy_compat.patcher import ModelPatcher
from comfy_compat.sampling import SamplerBase, noise_object, noise_reference, sampler_of
from comfy_compat.vae import VAE


def hand_out(value: object, wire: object = "*") -> object:
    """Our value in ComfyUI's shape. wire: the input's declared type, where it has one."""
    match value:
        case Latent():
            return latent_dict(value)
        case tuple() if (value and all(isinstance(c, Cond) for c in value)) or wire == "CONDITIONING":
            return pairs_of(value)
        case Model():
            return ModelPatcher.of(value)
        case Clip():
            return CLIP.of(value, the_bridge().storage)
        case Vae():
            return VAE.of(value)
        case ControlNet():
            return ControlHandle(value)
        case Sampler() | ForeignSampler():
            return sampler_of(value)
        case Noise() | ForeignNoise():
            return noise_object(value)
        case BasicGuider() | CfgGuider() | DualCfgGuider() | PerpNegGuider() | ForeignGuider():
            return guider_of(value)
        case _:
            return value


def take_in(value: object, wire: object = "*") -> object:
    """A value in ComfyUI's shape as ours. wire: the output's declared type.

    What only packs know stays as it is: it may travel from one of their nodes to the next.
    """
    match value:
        case {"samples": torch.Tensor()} if isinstance(value, dict):
            return latent_of(value)
        case list() if (value and all(map(is_condition, value))) or (wire == "CONDITIONING" and not value):
            return conditioning_of(value)
        case ModelPatcher(reference=Model()):
            return model_reference(value)
        case CLIP() if value.known:
            return value.reference
        case VAE(reference=Vae() as reference):
            return reference
        case ControlBase(reference=ControlNet() as reference) if wire in ("CONTROL_NET", "*"):
            return reference
        case SamplerBase() | CFGGuider():
            return value.reference()
        case GivenNoise():
            return value
        case _:
            return noise_reference(value) if wire in ("NOISE", "*") else value
