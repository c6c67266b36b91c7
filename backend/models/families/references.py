"""Pictures that an edit is made from: ComfyUI's reference latents, as inputs of a transformer."""

from torch import Tensor

from backend.models.conditioning import Given
from backend.models.families.sequence import REFERENCE
from backend.models.latent import LatentFormat

LATENTS, METHOD = "reference_latents", "reference_latents_method"  # ComfyUI's names of the options
OPTIONS = frozenset({LATENTS, METHOD})


def reference_inputs(given: Given, format: LatentFormat, default: str) -> dict[str, Tensor]:
    """`reference.<method>.<number>`: each picture in the model's units.

    default: the method by which they are placed where the condition names none.
    """
    latents, method = given.cond.options.get(LATENTS, ()), given.cond.options.get(METHOD, default)
    if not isinstance(latents, tuple | list):
        return {}
    return {
        f"{REFERENCE}.{method}.{number}": _fitted(format.to_model(latent.float()), format)
        for number, latent in enumerate(latents)
        if isinstance(latent, Tensor)
    }


def _fitted(latent: Tensor, format: LatentFormat) -> Tensor:
    """With frames where the model's latents have them, and without where they have none."""
    if format.dimensions == 3 and latent.ndim == 4:
        return latent.unsqueeze(2)
    return latent[:, :, 0] if format.dimensions == 2 and latent.ndim == 5 else latent
