"""Seeded noise, equal to ComfyUI's.

Noise is drawn on the CPU (or, for the noise of a step, where x lives) from generators of our own, in the
order in which ComfyUI draws it; torch's global generator is never touched.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torchsde
from torch import Tensor

NoiseSource: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (sigma, next sigma) -> noise of x's shape
SEEDS = 2**64
TREE_DIGITS = 6  # torchsde rounds the times of a Brownian tree to these


def initial_noise(
    shape: Sequence[int],
    seed: int,
    batch_index: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Unit noise of `shape` [B, ...] on the CPU.

    A batch is drawn in one piece. With batch_index (one index >= 0 per row) each row is the sample that
    stands at its index in a sequence of single draws, so equal indices get equal noise. Must equal
    ComfyUI's `prepare_noise` bit for bit.
    """
    generator = torch.Generator().manual_seed(seed)
    if batch_index is None:
        return torch.randn(tuple(shape), generator=generator, dtype=dtype)
    single = (1, *shape[1:])
    wanted = set(batch_index)
    drawn = {
        i: noise
        for i in range(max(wanted) + 1)
        for noise in (torch.randn(single, generator=generator, dtype=dtype),)
        if i in wanted
    }
    return torch.cat([drawn[i] for i in batch_index])


def ancestral_noise(x: Tensor, seed: int) -> NoiseSource:
    """Fresh unit noise at each call, whatever the sigmas.

    It starts from the same seed as the initial noise, so on a CPU its first draw equals that: ComfyUI
    0.3.64's behaviour, kept for equal images.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def churn_noise(x: Tensor, seed: int) -> NoiseSource:
    """Unit noise that continues the sequence the initial noise was drawn from (arXiv:2206.00364's
    S_churn).
    """
    generator = leftover_generator(x, seed)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def leftover_generator(x: Tensor, seed: int) -> torch.Generator:
    """As torch's global generator of x's device stands once the initial noise, made on the CPU, is drawn."""
    generator = torch.Generator(device=x.device).manual_seed(seed)
    if x.device.type == "cpu":
        torch.randn(x.shape, generator=generator)
    return generator


def masked_noise(shape: Sequence[int], seed: int) -> Tensor:
    """The noise that ddim puts into the kept part of a masked run: drawn from the next seed."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed((seed + 1) % SEEDS))


def brownian_noise(x: Tensor, sigmas: Tensor, seed: int, on_cpu: bool = True) -> NoiseSource:
    """Unit increments of one Brownian motion over the schedule's sigmas, so that step counts share their
    noise.

    on_cpu: the motion is computed on the CPU, as the samplers without `_gpu` in their names do.
    """
    present = sigmas[sigmas > 0]
    if len(present) < 2:  # one step, straight to 0: no increment is ever asked for
        return lambda sigma, sigma_next: torch.zeros_like(x)
    device = torch.device("cpu") if on_cpu else x.device
    start = torch.zeros_like(x, device=device)
    low, high = present.min().to(device), sigmas.max().to(device)
    tree = torchsde.BrownianTree(low, start, high, tol=10.0**-TREE_DIGITS, entropy=seed)
    first, last = round(float(low), TREE_DIGITS), round(float(high), TREE_DIGITS)

    def increment(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        sign = 1.0 if sigma < sigma_next else -1.0
        early, late = (min(max(s, first), last) for s in sorted((float(sigma), float(sigma_next))))
        moved = tree(early, late)
        unit: Tensor = moved.to(x.device, x.dtype) * sign / (sigma_next - sigma).abs().sqrt()
        return unit

    return increment
