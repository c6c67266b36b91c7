"""Tiny autoencoders (TAESD and its kin): quick, rough and small; their encoder and decoder are files of
their own.

Source: https://github.com/madebyollin/taesd. The network is diffusers'.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor, nn

from backend.models.header import Header
from backend.values import frozen

_WIDTH = 64


@frozen
class TinyVaeLayout:
    """channels: of latents."""

    downscale: ClassVar[int] = 8
    dimensions: ClassVar[int] = 2
    channels: int

    def build(self) -> AutoencoderTiny:
        with torch.device("meta"):
            return AutoencoderTiny(latent_channels=self.channels)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """name: with the half it is of before it: `encoder.` or `decoder.`."""
        half, number, rest = name.split(".", 2)
        shift = 1 if half == "decoder" else 0  # the first of the decoder's has no weights, and no layer here
        yield f"{half}.layers.{int(number) - shift}.{rest}", weight

    def encode(self, module: nn.Module, pixels: Tensor) -> Tensor:
        assert isinstance(module, AutoencoderTiny)
        latent: Tensor = module.encode(pixels, return_dict=False)[0]
        return latent

    def decode(self, module: nn.Module, latent: Tensor) -> Tensor:
        assert isinstance(module, AutoencoderTiny)
        pixels: Tensor = module.decode(latent, return_dict=False)[0]
        return pixels

    def decoding(self, area: int) -> int:
        """Numbers alive at the peak of decoding `area` latent pixels: a few maps of full size."""
        return 6 * area * self.downscale**2 * _WIDTH

    def encoding(self, area: int) -> int:
        """As `decoding`, on the way in."""
        return 6 * area * self.downscale**2 * _WIDTH


def detect(header: Header) -> TinyVaeLayout | None:
    """The layout that a decoder's file tells (names without prefix); None for anything else."""
    if "1.weight" not in header or "3.conv.0.weight" not in header:
        return None
    shape = header.shape("1.weight")
    return TinyVaeLayout(shape[1]) if len(shape) == 4 and shape[0] == _WIDTH else None
