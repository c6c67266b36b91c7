"""A diffusion model, loaded: one forward pass over rows that may belong to different users and LoRAs."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from backend.components import Weights
from backend.errors import BadFile, UnsupportedOption
from backend.models.adapters import Conv2d, Linear, adapt, applied, offload
from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.blend import Blank, Outline, open_weights
from backend.models.family import Family, Layout, identify
from backend.models.hostcopy import Form, HostCopies
from backend.models.layer_name import LayerName
from backend.models.lora import Patch, own_weight, sites_of
from backend.models.merged import Copies
from backend.models.residual import install_residuals
from backend.models.stored import shape_of
from backend.models.upsampler import install_upsamplers
from backend.models.weights import ModelFile, fill
from backend.values import frozen

# UNETLoader's names of the formats that weights may be cast to.
EIGHTHS = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


@frozen(eq=False)
class Denoiser:
    """sites: the layers that LoRAs may change, by the module's own names; base_bytes: of the weights.

    copies: of weights with LoRAs in them, made and dropped as passes need them.
    """

    family: Family
    layout: Layout
    module: nn.Module
    sites: tuple[str, ...]
    base_bytes: int
    copies: Copies
    device: torch.device
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Of its weights, and of the copies there are now."""
        return self.base_bytes + self.copies.nbytes

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor] | None = None,
        adapters: Sequence[Sequence[Patch]] = (),
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """The model's raw output for R rows.

        Args: x [R, C, *dims], scaled for the model's input; timesteps [R]; tokens [R, T, context width];
            extra: what the family takes beside them (`layout.conditioning`);
            adapters: each row's LoRAs, or () for none at all;
            additions: ControlNets' residuals, and the rows' alterations of the network's blocks.
        Returns: float32, as x, on the denoiser's device: what `layout.prediction` says.
        Raises: ValueError where the rows of the arguments do not agree.
        """
        if len({len(x), len(timesteps), len(tokens), len(adapters) or len(x)}) != 1:
            counts = f"x {len(x)}, timesteps {len(timesteps)}, tokens {len(tokens)}, adapters {len(adapters)}"
            raise ValueError(f"the rows of a forward pass must agree: {counts}")
        if additions.code is not None and not isinstance(self.module, UNet2DConditionModel):
            remedy = "Functions in a network's blocks are called in UNets alone: leave the node out."
            raise UnsupportedOption("model patch", f"of a {self.family.name} model", remedy)
        given = {name: self._placed(value) for name, value in (extra or {}).items()}
        x = self._placed(x)
        if (
            x.ndim == 4
        ):  # maps with their channels last are matrices to the transformers, and convolve fastest
            x = x.contiguous(memory_format=torch.channels_last)
        tokens, time = self._placed(tokens), timesteps.to(self.device)
        places = len(x) * math.prod(x.shape[2:])
        with torch.no_grad(), applied(sites_of(adapters, places, self.device, self.copies)):
            return self.layout.call(self.module, x, time, tokens, given, additions).float().contiguous()

    def working_bytes(self, rows: int, shape: Sequence[int]) -> int:
        """What a forward pass of so many rows takes beside the weights, about. shape: of x, [.., *dims]."""
        return rows * self.layout.activations(math.prod(shape[2:])) * self.dtype.itemsize

    @property
    def is_text(self) -> bool:
        return False

    def weight_shape(self, site: str) -> tuple[int, ...]:
        layer = self.module.get_submodule(site)
        assert isinstance(layer, Linear | Conv2d)
        return shape_of(layer)

    def lora_names(self, site: str) -> tuple[str | LayerName, ...]:
        return self.layout.lora_names(site)

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype)


def describe(weights: Weights) -> tuple[Family, Layout]:
    """What kind of diffusion model a file holds, from its header. Raises: UnknownFamily, BadFile."""
    _, family, layout = _opened(weights)
    return family, layout


def load_denoiser(
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    copies: HostCopies | None = None,
    offloaded: bool = False,
    fits: Callable[[int], bool] = lambda nbytes: True,
) -> Denoiser:
    """The diffusion model of a checkpoint, or of a file that holds nothing else.

    offloaded: its layers' weights stay on the host, mapped from the file where that has the right form, and
    come to the device one layer at a time. fits: as `Copies` asks.

    Raises: UnknownFamily, BadFile (damaged, or tensors missing).
    """
    file, family, layout = _opened(weights)
    if dtype is torch.float16 and family.half is torch.bfloat16 and _has_bfloat16(device):
        dtype = torch.bfloat16
    module, sites = _network(layout, doubling=not offloaded)
    form = Form(dtype, channels_last=True)  # as x is, or its weights would be turned in every pass
    copy = copies.of(weights) if copies else None
    narrow = EIGHTHS[weights.narrow] if weights.narrow else None
    host = torch.device("cpu") if offloaded else device
    nbytes = fill(module, file, layout.convert, host, form, copy, frugal=True, narrow=narrow)
    if offloaded:
        nbytes = offload(module, device)
    merged = Copies(partial(own_weight, module), 0 if offloaded else nbytes, fits)
    return Denoiser(family, layout, module, sites, nbytes, merged, device, dtype)


def _opened(weights: Weights) -> tuple[ModelFile, Family, Layout]:
    if len(weights.files) != 1:
        remedy = "Give one file that holds the whole diffusion model."
        raise BadFile(
            ", ".join(f.path for f in weights.files), "a diffusion model comes from one file", remedy
        )
    file = open_weights(weights, outline)
    family, layout, prefix = identify(file.header)
    return file.under(prefix), family, layout


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def outline(weights: Weights, file: ModelFile) -> Outline:
    """What changes of the denoiser's tensors in a file go by."""
    _, layout, _ = identify(file.header)
    module, sites = _network(layout)
    return Outline(layout.convert, Blank(module, sites, layout.lora_names, is_text=False))


def _network(layout: Layout, doubling: bool = True) -> tuple[nn.Module, tuple[str, ...]]:
    """The network on the meta device, and the layers that LoRAs may change.

    doubling: with upsamplers of our own, whose weights are where they are computed with.
    """
    module = layout.build()
    install_residuals(module)
    if doubling:
        install_upsamplers(module)
    return module, adapt(module)
