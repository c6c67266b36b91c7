"""What a kind of control model must say of itself: its hint, its network, and what that adds to a pass."""

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol

from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.latent import LatentFormat
from backend.resize import resize
from backend.values import frozen

Preparation = Literal["none", "canny", "inverted"]
MAKE = "Use a ControlNet that was made for this model."


@frozen
class HintFormat:
    """The picture that a control model takes.

    pixels: per latent pixel, on each side; multiple: sides are rounded up to multiples of it; grey: one
    channel; latent: it is encoded by the VAE into latents of this format, None: it stays a picture; masked: a
    mask stands behind its channels; preparation: of the pixels before they are encoded.
    """

    pixels: int = 8
    multiple: int = 1
    grey: bool = False
    latent: LatentFormat | None = None
    masked: bool = False
    preparation: Preparation = "none"

    def fitted(self, image: Tensor, dims: tuple[int, int]) -> Tensor:
        """A picture [B, H, W, C] for a latent of dims (h, w): [B, C, pixels h, pixels w], cut to fit."""
        height, width = (-(-side * self.pixels // self.multiple) * self.multiple for side in dims)
        hint = resize(image.movedim(-1, 1), width, height, "nearest-exact", "center")
        match self.preparation:
            case "canny":
                hint = hint * 255 * 0.5 + 0.5
            case "inverted":
                hint = 1.0 - hint
            case "none":
                pass
        return hint.mean(1, keepdim=True) if self.grey and hint.shape[1] > 1 else hint


@frozen(eq=False)
class ControlInputs:
    """Of R rows. x [R, C, h, w], timesteps [R], tokens [R, T, context], extra: as the denoiser has them; hint
    [R, ...]; kind: which of the hints that a model for several was trained on it is, None unless it is said.
    """

    x: Tensor
    hint: Tensor
    timesteps: Tensor
    tokens: Tensor
    extra: Mapping[str, Tensor]
    kind: int | None = None

    def own(self, name: str) -> Tensor:
        """An input that the denoiser has too. Raises: UnsupportedOption where it has none of that name."""
        if name not in self.extra:
            raise UnsupportedOption("control_net", f"a ControlNet that needs {name}", MAKE)
        return self.extra[name]


class ControlLayout(Protocol):
    """One control model as its header describes it."""

    @property
    def hint(self) -> HintFormat: ...

    def build(self) -> nn.Module:
        """The network on the meta device, without weights."""

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """One tensor of the file -> the network's tensors it becomes; none where it isn't needed."""

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        """What is to be added to a pass, for inputs in the module's dtype.

        Raises: UnsupportedOption where the inputs are those of another kind of model.
        """
