"""Stable Diffusion 1.x: a UNet over 4 latent channels, steered by CLIP-L; inpainting models have 9 inputs.

InstructPix2Pix has 8. Everything but the number of heads is read from the file, so reduced and pruned models
load too.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import ClassVar

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import Given, Inputs
from backend.models.families import inpainting, unet
from backend.models.families.unet_layout import UnetLayout, marked, read
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.sampling.discretization import Table, scaled_linear
from backend.sampling.prediction import Prediction
from backend.values import frozen

LATENT = LatentFormat(
    tiny="taesd",
    channels=4,
    downscale=8,
    scale=0.18215,
    rgb=(
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
    ),
)
HEADS = 8  # at every level; the only number that the tensors' shapes do not tell
OPTIONS = inpainting.OPTIONS


@cache
def noise_range(zero_terminal: bool = False) -> Table:
    """Stable Diffusion's; a zero-terminal one for models that were trained so."""
    return scaled_linear(zero_terminal=zero_terminal)


@frozen
class Sd15:
    """v: it predicts v, not the noise."""

    latent: ClassVar[LatentFormat] = LATENT
    mixes_lengths: ClassVar[bool] = True
    unet: UnetLayout
    v: bool = False

    @property
    def prediction(self) -> Prediction:
        return Prediction("v" if self.v else "eps", noise_range())

    @property
    def in_channels(self) -> int:
        return self.unet.in_channels

    @property
    def context(self) -> int:
        return self.unet.context

    def build(self) -> UNet2DConditionModel:
        return self.unet.build((HEADS,) * len(self.unet.levels))

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        return self.unet.convert(name, weight)

    def conditioning(self, given: Given) -> Inputs:
        """`concat`, for models that are shown a picture."""
        return inpainting.shown(given, self.in_channels, LATENT)

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor],
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """extra: `concat`, in the model's units."""
        assert isinstance(module, UNet2DConditionModel)
        x = inpainting.beside(x, self.in_channels, extra.get("concat"))
        return unet.forward(module, x, unet.time_embedding(module, timesteps, x.dtype), tokens, additions)

    def activations(self, area: int) -> int:
        return self.unet.activations(area)

    def lora_names(self, site: str) -> tuple[str, ...]:
        return self.unet.lora_names(site)


def detect(header: Header) -> Sd15 | None:
    """SD 1.x: transformers fed through 1x1 convolutions, and no class or size embedding beside the time."""
    found = read(header)
    if found is None or found.linear or found.classes is not None or found.in_channels not in (4, 8, 9):
        return None
    if any(level.depth > 1 for level in found.levels):
        return None
    return Sd15(found, marked(header, "v_pred"))
