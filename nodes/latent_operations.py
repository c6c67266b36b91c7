"""Operations on latents as values: made by one node, used by another."""

from dataclasses import replace
from typing import Annotated

from backend.latent_operations import LatentOperation, Sharpen, Tonemap
from backend.node import Float, Int, node
from backend.types import Latent

CATEGORY = "latent/advanced/operations"
MODULE = "comfy_extras.nodes_latent"


@node("LatentApplyOperation", category=CATEGORY, module=MODULE, experimental=True)
def latent_apply_operation(*, samples: Latent, operation: LatentOperation) -> Latent:
    """The latent after an operation."""
    from backend.sampling.operation import operated  # here, because it loads torch

    return replace(samples, samples=operated(operation, samples.samples))


@node("LatentOperationTonemapReinhard", category=CATEGORY, module=MODULE, experimental=True)
def latent_operation_tonemap_reinhard(
    *, multiplier: Annotated[float, Float(0.0, 100.0, step=0.01)] = 1.0
) -> LatentOperation:
    """Long latent vectors are shortened."""
    return Tonemap(multiplier)


@node("LatentOperationSharpen", category=CATEGORY, module=MODULE, experimental=True)
def latent_operation_sharpen(
    *,
    sharpen_radius: Annotated[int, Int(1, 31, step=1)] = 9,
    sigma: Annotated[float, Float(0.1, 10.0, step=0.1)] = 1.0,
    alpha: Annotated[float, Float(0.0, 5.0, step=0.01)] = 0.1,
) -> LatentOperation:
    """The directions of latent vectors are sharpened."""
    return Sharpen(sharpen_radius, sigma, alpha)
