"""ComfyUI's `comfy.k_diffusion.sampling`: schedules and steps to compute with, its samplers by name."""

import math

import torch
import torchsde

from backend.sampling.names import SAMPLER_NAMES
from comfy.k_diffusion import utils
from comfy_compat.sampler_run import NamedSampler

append_dims = utils.append_dims


def append_zero(x):
    return torch.cat([x, x.new_zeros([1])])


def get_sigmas_karras(n, sigma_min, sigma_max, rho=7.0, device="cpu"):
    """Karras et al. (2022), eq. 5."""
    ramp = torch.linspace(0, 1, n, device=device)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return append_zero((high + ramp * (low - high)) ** rho).to(device)


def get_sigmas_exponential(n, sigma_min, sigma_max, device="cpu"):
    return append_zero(torch.linspace(math.log(sigma_max), math.log(sigma_min), n, device=device).exp())


def get_sigmas_polyexponential(n, sigma_min, sigma_max, rho=1.0, device="cpu"):
    ramp = torch.linspace(1, 0, n, device=device) ** rho
    return append_zero(torch.exp(ramp * (math.log(sigma_max) - math.log(sigma_min)) + math.log(sigma_min)))


def get_sigmas_vp(n, beta_d=19.9, beta_min=0.1, eps_s=1e-3, device="cpu"):
    t = torch.linspace(1, eps_s, n, device=device)
    return append_zero(torch.sqrt(torch.special.expm1(beta_d * t**2 / 2 + beta_min * t)))


def get_sigmas_laplace(n, sigma_min, sigma_max, mu=0.0, beta=0.5, device="cpu"):
    x = torch.linspace(0, 1, n, device=device)
    spread = mu - beta * torch.sign(0.5 - x) * torch.log(1 - 2 * torch.abs(0.5 - x) + 1e-5)
    return torch.clamp(torch.exp(spread), min=sigma_min, max=sigma_max)


def to_d(x, sigma, denoised):
    """The slope of the denoising ODE."""
    return (x - denoised) / append_dims(sigma, x.ndim)


def get_ancestral_step(sigma_from, sigma_to, eta=1.0):
    """(down to, noise to add) of a step with fresh noise."""
    if not eta:
        return sigma_to, 0.0
    up = min(sigma_to, eta * (sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2) ** 0.5)
    return (sigma_to**2 - up**2) ** 0.5, up


def default_noise_sampler(x, seed=None):
    """Fresh noise at each call."""
    generator = None
    if seed is not None:
        generator = torch.Generator(device=x.device).manual_seed(seed)
    return lambda sigma, sigma_next: torch.randn(
        x.size(), dtype=x.dtype, layout=x.layout, device=x.device, generator=generator
    )


class BatchedBrownianTree:
    """A Brownian tree for a tensor, or one for each of its rows."""

    def __init__(self, x, t0, t1, seed=None, **kwargs):
        self.cpu_tree = kwargs.pop("cpu", True)
        t0, t1, self.sign = (t0, t1, 1) if t0 < t1 else (t1, t0, -1)
        start = kwargs.pop("w0", None)
        start = torch.zeros_like(x) if start is None else start
        self.batched = isinstance(seed, (list, tuple))
        seeds = seed if self.batched else [seed if seed is not None else 0]
        starts = list(start) if self.batched else [start]
        if self.cpu_tree:
            t0, t1, starts = t0.detach().cpu(), t1.detach().cpu(), [s.detach().cpu() for s in starts]
        self.trees = [
            torchsde.BrownianTree(t0, w0, t1, entropy=s, **kwargs)
            for s, w0 in zip(seeds, starts, strict=True)
        ]

    def __call__(self, t0, t1):
        t0, t1, sign = (t0, t1, 1) if t0 < t1 else (t1, t0, -1)
        device, dtype = t0.device, t0.dtype
        if self.cpu_tree:
            t0, t1 = t0.detach().cpu().float(), t1.detach().cpu().float()
        made = torch.stack([tree(t0, t1) for tree in self.trees]).to(device, dtype) * (self.sign * sign)
        return made if self.batched else made[0]


class BrownianTreeNoiseSampler:
    """Noise of SDE samplers, the same however the steps are chosen."""

    def __init__(self, x, sigma_min, sigma_max, seed=None, transform=lambda x: x, cpu=False):
        self.transform = transform
        t0, t1 = (self.transform(torch.as_tensor(s)) for s in (sigma_min, sigma_max))
        self.tree = BatchedBrownianTree(x, t0, t1, seed, cpu=cpu)

    def __call__(self, sigma, sigma_next):
        t0, t1 = (self.transform(torch.as_tensor(s)) for s in (sigma, sigma_next))
        return self.tree(t0, t1) / (t1 - t0).abs().sqrt()


for _name in SAMPLER_NAMES:
    globals()[f"sample_{_name}"] = NamedSampler(_name)
