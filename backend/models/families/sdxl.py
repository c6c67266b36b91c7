"""Stable Diffusion XL and its refiner: a UNet that is also told the sizes and the place of the picture.

Source: arXiv:2307.01952. Inpainting models have 9 inputs, InstructPix2Pix 8. The noise range and what the
output means are those of the base model, of Playground 2.5 (EDM), CosXL (v over EDM's range), or of models
trained to predict v, as marks in the file say.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import ClassVar, Literal, TypeAlias

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import Given, Inputs
from backend.models.families import inpainting, unet
from backend.models.families.sd15 import noise_range
from backend.models.families.unet_layout import UnetLayout, marked, read
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.sampling.discretization import Continuous, continuous
from backend.sampling.prediction import Prediction
from backend.values import frozen

LATENT = LatentFormat(
    tiny="taesdxl",
    channels=4,
    downscale=8,
    scale=0.13025,
    rgb=(
        (0.3651, 0.4232, 0.4341),
        (-0.2533, -0.0042, 0.1068),
        (0.1076, 0.1111, -0.0362),
        (-0.3165, -0.2492, -0.2188),
    ),
    rgb_bias=(0.1084, -0.0175, -0.0011),
)
_DEVIATIONS = (8.4927, 5.9022, 6.5498, 5.2299)
PLAYGROUND = LatentFormat(
    channels=4,
    downscale=8,
    scale=tuple(0.5 / deviation for deviation in _DEVIATIONS),
    shift=(-1.6574, 1.886, -1.383, 2.5155),
    rgb=(
        (0.3920, 0.4054, 0.4549),
        (-0.2634, -0.0196, 0.0653),
        (0.0568, 0.1687, -0.0755),
        (-0.3112, -0.2359, -0.2076),
    ),
)
HEAD = 64  # channels of one attention head, at every level
BASE, REFINER = 2816, 2560  # widths of the vector that joins the time embedding
_SIZE = 256  # numbers that each size becomes in it
_SIZES = frozenset({"width", "height", "crop_w", "crop_h", "target_width", "target_height"})
OPTIONS = inpainting.OPTIONS | _SIZES | {"aesthetic_score"}
Kind: TypeAlias = Literal["eps", "v", "v_zero_terminal", "v_edm", "edm"]


@cache
def _edm_range(low: float, high: float) -> Continuous:
    return continuous(low, high)


@frozen
class Sdxl:
    """kind: what its output means, and over which range of noise."""

    mixes_lengths: ClassVar[bool] = True
    unet: UnetLayout
    kind: Kind = "eps"

    @property
    def refines(self) -> bool:
        """It is the refiner, which is told how the picture shall please instead of its target size."""
        return self.unet.classes == REFINER

    @property
    def prediction(self) -> Prediction:
        match self.kind:
            case "edm":
                return Prediction("edm", _edm_range(0.002, 80.0), sigma_data=0.5)
            case "v_edm":
                return Prediction("v", _edm_range(0.002, 120.0))
            case "v" | "v_zero_terminal":
                return Prediction("v", noise_range(zero_terminal=self.kind != "v"))
            case "eps":
                return Prediction("eps", noise_range())

    @property
    def latent(self) -> LatentFormat:
        return PLAYGROUND if self.kind == "edm" else LATENT

    @property
    def in_channels(self) -> int:
        return self.unet.in_channels

    @property
    def context(self) -> int:
        return self.unet.context

    def build(self) -> UNet2DConditionModel:
        return self.unet.build(tuple(level.channels // HEAD for level in self.unet.levels))

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        return self.unet.convert(name, weight)

    def conditioning(self, given: Given) -> Inputs:
        """`y` [N, 2816 or 2560]: the pooled text and the sizes; `concat` for models that are shown a picture.

        Raises: UnsupportedOption where the condition has no pooled text of the right width.
        """
        placed = inpainting.shown(given, self.in_channels, self.latent, scaled=self.kind == "v_edm").placed
        sizes = self._sizes(given)
        pooled, width = given.cond.pooled, self.unet.classes
        if pooled is None or width is None or pooled.shape[-1] + len(sizes) * _SIZE != width:
            value = "no pooled text" if pooled is None else f"pooled text of width {pooled.shape[-1]}"
            raise UnsupportedOption(given.side, value, "Encode it with the text encoders of an SDXL model.")
        told = embedded(sizes).expand(len(pooled), -1)
        return Inputs({"y": torch.cat([pooled.float().cpu(), told], dim=1)}, placed)

    def _sizes(self, given: Given) -> list[float]:
        sides = [side * self.latent.downscale for side in given.latent.shape[-2:]]
        height, width = given.number("height", sides[0]), given.number("width", sides[1])
        told = [height, width, given.number("crop_h", 0), given.number("crop_w", 0)]
        if self.refines:
            return [*told, given.number("aesthetic_score", 2.5 if given.side == "negative" else 6)]
        return [*told, given.number("target_height", height), given.number("target_width", width)]

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor],
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """extra: `y`, and `concat` in the model's units."""
        assert isinstance(module, UNet2DConditionModel)
        x = inpainting.beside(x, self.in_channels, extra.get("concat"))
        embedding = unet.time_embedding(module, timesteps, x.dtype) + module.add_embedding(extra["y"])
        return unet.forward(module, x, embedding, tokens, additions)

    def activations(self, area: int) -> int:
        return self.unet.activations(area)

    def lora_names(self, site: str) -> tuple[str, ...]:
        return self.unet.lora_names(site)


def embedded(numbers: Sequence[float]) -> Tensor:
    """Numbers as timesteps are embedded, one after the other: float32 [1, 256 * n]."""
    half = _SIZE // 2
    rates = (torch.arange(half) * (-math.log(10000) / half)).exp()
    angles = torch.tensor(numbers)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1).reshape(1, -1)


def detect(header: Header) -> Sdxl | None:
    """SDXL: transformers fed by linear layers, and the pooled text and sizes beside the time."""
    found = read(header)
    if found is None or not found.linear or found.classes not in (BASE, REFINER):
        return None
    if found.in_channels not in (4, 8, 9):
        return None
    return Sdxl(found, _kind(header))


def _kind(header: Header) -> Kind:
    if marked(header, "edm_mean") and marked(header, "edm_std"):
        return "edm"
    if marked(header, "edm_vpred.sigma_max"):
        return "v_edm"
    if marked(header, "v_pred"):
        return "v_zero_terminal" if marked(header, "ztsnr") else "v"
    return "eps"
