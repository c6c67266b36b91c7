"""What a kind of autoencoder must say of itself."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn


class VaeLayout(Protocol):
    """One autoencoder as its header describes it.

    channels: of latents; downscale: pixels per latent pixel; dimensions: 3 where latents have frames. The
    network's pixels are -1..1.
    """

    @property
    def channels(self) -> int: ...

    @property
    def downscale(self) -> int: ...

    @property
    def dimensions(self) -> int: ...

    def build(self) -> nn.Module:
        """The network on the meta device, without weights."""

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """One tensor of the file -> the network's tensors it becomes; none where it isn't needed."""

    def encode(self, module: nn.Module, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] (with frames [B, 3, T, H, W]) -> the mean of its latent, [B, C, (T',) h, w]."""

    def decode(self, module: nn.Module, latent: Tensor) -> Tensor:
        """[B, C, (T',) h, w] -> [B, 3, (T,) H, W]."""

    def decoding(self, area: int) -> int:
        """Numbers alive at the peak of decoding `area` latent pixels (of all frames)."""

    def encoding(self, area: int) -> int:
        """As `decoding`, on the way in."""
