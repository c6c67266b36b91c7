"""ComfyUI's `comfy.ldm.modules.diffusionmodules.util`."""

import math

import torch


def timestep_embedding(timesteps, dim, max_period=10000, repeat_only=False):
    """Sines and cosines [N, dim] of times [N]."""
    if repeat_only:
        return timesteps[:, None].expand(-1, dim)
    half = dim // 2
    rates = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    )
    angles = timesteps[:, None].float() * rates[None]
    made = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([made, torch.zeros_like(made[:, :1])], dim=-1) if dim % 2 else made


def zero_module(module):
    """A module with all its weights zero."""
    for parameter in module.parameters():
        parameter.detach().zero_()
    return module


def conv_nd(dims, *args, **kwargs):
    return {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dims](*args, **kwargs)


def linear(*args, **kwargs):
    return torch.nn.Linear(*args, **kwargs)


def avg_pool_nd(dims, *args, **kwargs):
    return {1: torch.nn.AvgPool1d, 2: torch.nn.AvgPool2d, 3: torch.nn.AvgPool3d}[dims](*args, **kwargs)


def make_beta_schedule(schedule, n_timestep, linear_start=1e-4, linear_end=2e-2, cosine_s=8e-3):
    """Betas of Stable Diffusion's kind."""
    return torch.linspace(linear_start**0.5, linear_end**0.5, n_timestep, dtype=torch.float64) ** 2


def checkpoint(func, inputs, params, flag):
    return func(*inputs)
