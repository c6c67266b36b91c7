"""ComfyUI's `comfy.float`: rounding to narrow formats."""

import torch


def stochastic_rounding(value, dtype, seed=0):
    """A tensor in a narrower dtype, each number rounded up or down by chance, so that the mean stays."""
    if dtype in (torch.float32, torch.float16, torch.bfloat16):
        return value.to(dtype)
    generator = torch.Generator(device=value.device).manual_seed(seed)
    info = torch.finfo(dtype)
    narrow = value.float().clamp(info.min, info.max)
    _, exponent = torch.frexp(narrow)
    step = torch.ldexp(torch.full_like(narrow, info.eps), exponent - 1)
    noise = torch.rand(narrow.shape, generator=generator, device=narrow.device) - 0.5
    return (narrow + noise * step).clamp(info.min, info.max).to(dtype)
