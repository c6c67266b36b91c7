"""Which family of models a file belongs to, read from names and shapes alone."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from backend.errors import UnknownFamily
from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import Given, Inputs
from backend.models.families import flux, qwen_image, sd3, sd15, sdxl, wan, z_image
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.models.layer_name import LayerName
from backend.models.parts import DENOISER_PREFIXES
from backend.sampling.prediction import Prediction
from backend.values import frozen


class Layout(Protocol):
    """One model as its header describes it: what family code must say of it.

    prediction: its noise range, and what the raw output means, where no node says otherwise; in_channels:
    latent channels, and those of a masked image beside them; context: width of the tokens; mixes_lengths:
    tokens may be repeated to the length of another row's (plain cross attention), so that rows with texts of
    different lengths share a pass.
    """

    @property
    def prediction(self) -> Prediction: ...

    @property
    def latent(self) -> LatentFormat: ...

    @property
    def in_channels(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def mixes_lengths(self) -> bool: ...

    def build(self) -> nn.Module:
        """The network on the meta device, without weights."""

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """One tensor of the file -> the network's tensors it becomes; none where it isn't needed."""

    def conditioning(self, given: Given) -> Inputs:
        """What the network is given for a condition, beside its tokens. Done once per run.

        Raises: UnsupportedOption for an option that can't be honoured.
        """

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor],
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """One forward pass.

        x [R, C, *dims], timesteps [R], tokens [R, T, context], extra: the `Inputs` by name, R rows each, all
        in the module's dtype.
        """

    def activations(self, area: int) -> int:
        """Numbers alive at the peak of a forward pass for one row of `area` latent pixels (of all frames)."""

    def lora_names(self, site: str) -> tuple[str | LayerName, ...]:
        """What LoRA files may call a layer of the network, without the endings (`.lora_up.weight` ...)."""


@frozen
class Family:
    """detect: the layout of a header (names without prefix) if it is of this family, and None if it isn't.

    options: of conditions, that the family reads. Others ignore them, as ComfyUI does; an option that no
    family reads is refused. half: the half format in which the network does not overflow, where the device
    has it.
    """

    name: str
    detect: Callable[[Header], Layout | None]
    options: frozenset[str] = frozenset()
    half: torch.dtype = torch.float16


FAMILIES: tuple[Family, ...] = (
    Family("sd15", sd15.detect, sd15.OPTIONS),
    Family("sdxl", sdxl.detect, sdxl.OPTIONS),
    Family("sd3", sd3.detect, half=torch.bfloat16),
    Family("flux", flux.detect, flux.OPTIONS, half=torch.bfloat16),
    Family("qwen_image", qwen_image.detect, qwen_image.OPTIONS, half=torch.bfloat16),
    Family("z_image", z_image.detect, half=torch.bfloat16),
    Family("wan", wan.detect, half=torch.bfloat16),
)
OPTIONS = frozenset(option for family in FAMILIES for option in family.options)


def identify(header: Header) -> tuple[Family, Layout, str]:
    """The family of the diffusion model in a file, its layout, and the prefix of its names.

    Raises: UnknownFamily naming what was found instead.
    """
    for prefix in DENOISER_PREFIXES:
        part = header.under(prefix)
        for family in FAMILIES:
            if (layout := family.detect(part)) is not None:
                return family, layout, prefix
    known = ", ".join(family.name for family in FAMILIES)
    remedy = f"Use a model of a supported family ({known})."
    raise UnknownFamily(header.path, f"no known diffusion model in it: {_found(header)}", remedy)


def _found(header: Header) -> str:
    names = sorted(header)
    if not names:
        return "it holds no tensors"
    return f"{len(names)} tensors, such as {', '.join(names[:: max(1, len(names) // 3)][:3])}"
