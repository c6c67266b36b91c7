"""ComfyUI's `comfy.model_base`: classes for isinstance; the networks are in workers."""

import math

import torch

import comfy.model_sampling
from comfy_compat.model_view import *
from comfy_compat.model_view import ModelType


def model_sampling(model_config, model_type):
    """A `model_sampling` object of a kind."""
    kinds = {
        ModelType.EPS: (comfy.model_sampling.EPS, comfy.model_sampling.ModelSamplingDiscrete),
        ModelType.V_PREDICTION: (
            comfy.model_sampling.V_PREDICTION,
            comfy.model_sampling.ModelSamplingDiscrete,
        ),
        ModelType.EDM: (comfy.model_sampling.EDM, comfy.model_sampling.ModelSamplingContinuousEDM),
        ModelType.FLOW: (comfy.model_sampling.CONST, comfy.model_sampling.ModelSamplingDiscreteFlow),
        ModelType.FLUX: (comfy.model_sampling.CONST, comfy.model_sampling.ModelSamplingFlux),
    }
    prediction, steps = kinds.get(model_type, kinds[ModelType.EPS])
    return type("ModelSampling", (steps, prediction), {})(model_config)


class Timestep(torch.nn.Module):
    """Sines and cosines of a number."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, t):
        half = self.dim // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t[:, None].float() * rates[None]
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class CLIPEmbeddingNoiseAugmentation(torch.nn.Module):
    """Noise on image embeddings, for models that were trained with it."""

    def __init__(self, *args, timestep_dim=256, **kwargs):
        super().__init__()
        self.time_embed = Timestep(timestep_dim)


def sdxl_pooled(args, noise_augmentor):
    """The pooled text of SDXL's conditions."""
    return args["pooled_output"]


def convert_tensor(extra, dtype, device):
    """An extra input in the model's dtype; whole numbers stay as they are."""
    if not hasattr(extra, "dtype"):
        return extra
    whole = extra.dtype in (torch.int, torch.long)
    return extra.to(device=device) if whole else extra.to(device=device, dtype=dtype)
