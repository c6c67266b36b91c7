"""Latent formats under ComfyUI's names: packs scale latents and paint previews with them."""

from typing import Any

import torch
from torch import Tensor

from backend.models.latent import LatentFormat as Known


class LatentFormat:
    """scale_factor, shift_factor: latents are (VAE's latent - shift) * scale in the model."""

    scale_factor: Any = 1.0
    shift_factor: Any = 0.0
    latent_channels = 4
    latent_dimensions = 2
    latent_rgb_factors: Any = None
    latent_rgb_factors_bias: Any = None
    taesd_decoder_name: str | None = None
    spacial_downscale_ratio = 8

    def process_in(self, latent: Tensor) -> Tensor:
        made: Tensor = (latent - _over(self.shift_factor, latent)) * _over(self.scale_factor, latent)
        return made

    def process_out(self, latent: Tensor) -> Tensor:
        made: Tensor = latent / _over(self.scale_factor, latent) + _over(self.shift_factor, latent)
        return made


class SD15(LatentFormat):
    taesd_decoder_name = "taesd_decoder"

    def __init__(self, scale_factor: float = 0.18215) -> None:
        self.scale_factor = scale_factor


class SDXL(LatentFormat):
    scale_factor = 0.13025
    taesd_decoder_name = "taesdxl_decoder"


class SDXL_Playground_2_5(LatentFormat):
    scale_factor = 0.5
    taesd_decoder_name = "taesdxl_decoder"


class SD_X4(LatentFormat):
    scale_factor = 0.08333


class SC_Prior(LatentFormat):
    latent_channels = 16
    scale_factor = 1.0


class SC_B(LatentFormat):
    scale_factor = 1.0 / 0.43


class SD3(LatentFormat):
    latent_channels = 16
    scale_factor = 1.5305
    shift_factor = 0.0609
    taesd_decoder_name = "taesd3_decoder"


class StableAudio1(LatentFormat):
    latent_channels = 64
    latent_dimensions = 1


class Flux(SD3):
    scale_factor = 0.3611
    shift_factor = 0.1159
    taesd_decoder_name = "taef1_decoder"


class Mochi(LatentFormat):
    latent_channels = 12
    latent_dimensions = 3


class LTXV(LatentFormat):
    latent_channels = 128
    latent_dimensions = 3


class HunyuanVideo(LatentFormat):
    latent_channels = 16
    latent_dimensions = 3
    scale_factor = 0.476986


class Cosmos1CV8x8x8(LatentFormat):
    latent_channels = 16
    latent_dimensions = 3


class Wan21(LatentFormat):
    latent_channels = 16
    latent_dimensions = 3


class Wan22(LatentFormat):
    latent_channels = 48
    latent_dimensions = 3
    spacial_downscale_ratio = 16


class Hunyuan3Dv2(LatentFormat):
    latent_channels = 64
    latent_dimensions = 1
    scale_factor = 0.9990943042622529


class ACEAudio(LatentFormat):
    latent_channels = 8
    latent_dimensions = 2


_BY_FAMILY: dict[str, type[LatentFormat]] = {
    "sd15": SD15,
    "sdxl": SDXL,
    "sdxl_refiner": SDXL,
    "sd3": SD3,
    "flux": Flux,
    "chroma": Flux,
    "wan": Wan21,
    "qwen_image": Wan21,
    "hunyuan_video": HunyuanVideo,
    "ltxv": LTXV,
}


def latent_format_of(known: Known | None, family: str) -> LatentFormat:
    """The format of a family, with the numbers of its layout."""
    made = _BY_FAMILY.get(family, LatentFormat)()
    if known is None:
        return made
    made.scale_factor, made.shift_factor = known.scale, known.shift
    made.latent_channels, made.latent_dimensions = known.channels, known.dimensions
    made.spacial_downscale_ratio = known.downscale
    if known.rgb:
        made.latent_rgb_factors = [list(color) for color in known.rgb]
        made.latent_rgb_factors_bias = list(known.rgb_bias)
    return made


def _over(value: Any, like: Tensor) -> Any:
    """A number, or one for each channel of [B, C, ...]."""
    if isinstance(value, (tuple, list)):
        return torch.tensor(value, device=like.device, dtype=like.dtype).reshape(
            1, -1, *[1] * (like.ndim - 2)
        )
    return value
