"""What a sampler asks for. A sampler is a generator of requests; it knows no model, device or other user."""

from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from typing import TypeAlias

from torch import Tensor

from backend.sampling.prediction import Prediction
from backend.values import frozen


@frozen(eq=False)
class DenoiseRequest:
    """Denoise x at noise level sigma.

    x float32 [B, ...]; sigma a 0-dim float32 tensor on the CPU; step: the step this evaluation opens
    (progress and preview are reported for it), None for a further evaluation within a step. uncond: the
    answer is two estimates, stacked [2, *x.shape]: the guided one and the unconditional one, whatever the
    guidance scale.
    """

    x: Tensor
    sigma: Tensor
    step: int | None = None
    uncond: bool = False


Sampler: TypeAlias = Generator[DenoiseRequest, Tensor, Tensor]


@frozen(eq=False)
class RunFacts:
    """What a sampler may know of its run beyond x and sigmas. seed: 0 .. 2**64 - 1."""

    prediction: Prediction
    seed: int


SamplerFunction: TypeAlias = Callable[..., Sampler]  # (x, sigmas, facts, *, options) -> Sampler


def steps(sigmas: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index, sigma, next sigma) of each step of a schedule; none for fewer than two sigmas."""
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        yield index, sigma, sigma_next


def slope(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """dx/dsigma of the probability-flow ODE: arXiv:2206.00364, eq. (3)."""
    return (x - denoised) / sigma
